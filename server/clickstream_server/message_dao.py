"""MessageDao: the interface that the service is made of, whose reads give messages instead of models.

What is stored goes to the wire without a model in between: making models of it first took two thirds of the server's
time for a session (`make bench ARGS=export-sessions`). The interface's own reads are made from the messages here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from clickstream import transfer_wire, wire
from clickstream.dao import DEFAULT_EVENTS_LIMIT, ClickstreamDao
from clickstream.export import ExportFilter, ExportPage
from clickstream.models import SessionPage, SessionWithEvents
from clickstream.transfer import TransferDao
from clickstream.v1 import session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A SessionPage as messages. They may be shared by many readers: nobody changes them."""

    sessions: tuple[session_pb2.SessionWithEvents, ...]
    last_number: int
    sealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchQuery:
    """What a reader of a batch asks for; see `ClickstreamDao.get_batch_pages`."""

    batch_id: str
    after_number: int = 0
    limit: int = 0
    events_limit: int | None = None
    exclude_irrelevant: bool = False
    follow: bool = False


class MessageDao(ClickstreamDao, TransferDao):
    """What a storage implements: the interface's writes, and its reads as messages."""

    @abstractmethod
    async def get_session_message(
        self, session_id: str, *, events_limit: int | None = DEFAULT_EVENTS_LIMIT
    ) -> session_pb2.SessionWithEvents | None:
        """See `ClickstreamDao.get_session`."""

    @abstractmethod
    def get_batch_messages(self, query: BatchQuery) -> AsyncGenerator[MessagePage, None]:
        """See `ClickstreamDao.get_batch_pages`."""

    @abstractmethod
    def export_messages(
        self, chosen: ExportFilter, *, events_limit: int | None = None, limit: int = 0, resume_token: str = ""
    ) -> AsyncGenerator[pb_transfer.ExportSessionsResponse, None]:
        """See `TransferDao.export_sessions`. Each is to be sent as it is."""

    async def get_session(
        self, session_id: str, *, events_limit: int | None = DEFAULT_EVENTS_LIMIT
    ) -> SessionWithEvents | None:
        found = await self.get_session_message(session_id, events_limit=events_limit)
        return None if found is None else wire.session_with_events_from_pb(found)

    async def get_batch_pages(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> AsyncGenerator[SessionPage, None]:
        query = BatchQuery(
            batch_id=batch_id,
            after_number=after_number,
            limit=limit,
            events_limit=events_limit,
            exclude_irrelevant=exclude_irrelevant,
            follow=follow,
        )
        async with aclosing(self.get_batch_messages(query)) as pages:
            async for page in pages:
                yield SessionPage(
                    sessions=tuple(map(wire.session_with_events_from_pb, page.sessions)),
                    last_number=page.last_number,
                    sealed=page.sealed,
                )

    async def export_sessions(
        self, chosen: ExportFilter, *, events_limit: int | None = None, limit: int = 0, resume_token: str = ""
    ) -> AsyncGenerator[ExportPage, None]:
        pages = self.export_messages(chosen, events_limit=events_limit, limit=limit, resume_token=resume_token)
        async with aclosing(pages):
            async for page in pages:
                yield transfer_wire.export_page_from_pb(page)
