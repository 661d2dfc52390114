"""MessageDao: the interface behind the servicers, which takes and returns protobuf messages instead of models.

Between wire and storage no model is made, in either direction: models took two thirds of the server's time for a
session (`make bench ARGS=export`) and three quarters of it for an event (`ARGS=stream-events`). The methods with
models, which the contract's interface has, are built here on those with messages.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from clickstream import transfer_wire, wire
from clickstream.dao import DEFAULT_EVENTS_LIMIT, ClickstreamDao
from clickstream.errors import InvalidField
from clickstream.export import ExportFilter, ExportPage
from clickstream.models import (
    PushResult,
    RegisteredSession,
    Registration,
    Session,
    SessionEvent,
    SessionPage,
    SessionWithEvents,
)
from clickstream.transfer import (
    EventAck,
    EventBatch,
    ImportChunk,
    ImportConfig,
    ImportProgress,
    ImportSummary,
    TransferDao,
)
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer


class EncodedAnswer(NamedTuple):
    """An answer of a stream as it is to be sent. `sessions`: how many are in it."""

    content: bytes
    sessions: int


class SessionAnswer(NamedTuple):
    """A session as a GetBatchSessionsResponse of its own, in bytes.

    Such answers laid end to end are one answer with all of their sessions: protobuf merges repeated fields so. Many
    readers may share them, so that no session is encoded twice.
    """

    content: bytes
    session_number: int
    registered_at: int

    @property
    def session(self) -> session_pb2.SessionWithEvents:
        """The session in it."""
        return pb.GetBatchSessionsResponse.FromString(self.content).sessions[0]


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A SessionPage as answers."""

    sessions: tuple[SessionAnswer, ...]
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


SentEvents = Sequence[event_pb2.SessionEvent | InvalidField]
"""Events as they were sent. One that could not be parsed is its error instead, and is counted as REJECTED."""


class SentBatch(Protocol):
    """An EventBatch as it was sent, such as a StreamEventsRequest."""

    @property
    def sequence(self) -> int: ...
    @property
    def events(self) -> SentEvents: ...


@dataclass(frozen=True, slots=True)
class EventParts:
    """As a request of PushEvents or StreamEvents, some of whose events could not be parsed."""

    sequence: int
    events: SentEvents


@dataclass(frozen=True, slots=True)
class ItemParts:
    """As an ImportItem, whose session or some of whose events could not be parsed."""

    session: session_pb2.Session | InvalidField | None
    events: SentEvents


@dataclass(frozen=True, slots=True)
class ChunkParts:
    """As an ImportChunk, some of whose items could not be parsed."""

    sequence: int
    items: Sequence[pb_transfer.ImportItem | ItemParts]


SentChunk = pb_transfer.ImportChunk | ChunkParts
"""A chunk as it was sent."""


class MessageDao(ClickstreamDao, TransferDao):
    """What a storage implements: the interface with messages."""

    @abstractmethod
    async def register_session_message(self, session: session_pb2.Session) -> pb.RegisterSessionResponse:
        """See `ClickstreamDao.register_session`."""

    @abstractmethod
    async def update_session_message(self, session: session_pb2.Session) -> session_pb2.RegisteredSession:
        """See `ClickstreamDao.update_session`."""

    @abstractmethod
    async def push_event_messages(self, events: SentEvents) -> PushResult:
        """See `ClickstreamDao.push_events`."""

    @abstractmethod
    async def mark_session_irrelevant_message(self, session_id: str) -> session_pb2.RegisteredSession:
        """See `ClickstreamDao.mark_session_irrelevant`."""

    @abstractmethod
    def stream_event_messages(self, batches: AsyncIterable[SentBatch]) -> AsyncGenerator[EventAck, None]:
        """See `TransferDao.stream_events`."""

    @abstractmethod
    def import_session_messages(
        self, config: ImportConfig, chunks: AsyncIterable[SentChunk]
    ) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        """See `TransferDao.import_sessions`."""

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
    ) -> AsyncGenerator[EncodedAnswer, None]:
        """See `TransferDao.export_sessions`. Each is an ExportSessionsResponse."""

    async def register_session(self, session: Session) -> Registration:
        done = await self.register_session_message(wire.session_to_pb(session))
        return Registration(
            session=wire.registered_session_from_pb(done.session), outcome=wire.outcome_from_pb(done.outcome)
        )

    async def update_session(self, session: Session) -> RegisteredSession:
        return wire.registered_session_from_pb(await self.update_session_message(wire.session_to_pb(session)))

    async def push_events(self, events: Sequence[SessionEvent | InvalidField]) -> PushResult:
        return await self.push_event_messages(_sent(events))

    async def mark_session_irrelevant(self, session_id: str) -> RegisteredSession:
        return wire.registered_session_from_pb(await self.mark_session_irrelevant_message(session_id))

    async def stream_events(self, batches: AsyncIterable[EventBatch]) -> AsyncGenerator[EventAck, None]:
        sent = (EventParts(batch.sequence, _sent(batch.events)) async for batch in batches)
        async with aclosing(self.stream_event_messages(sent)) as acks:
            async for ack in acks:
                yield ack

    async def import_sessions(
        self, config: ImportConfig, chunks: AsyncIterable[ImportChunk]
    ) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        sent = (transfer_wire.import_chunk_to_pb(chunk).chunk async for chunk in chunks)
        async with aclosing(self.import_session_messages(config, sent)) as answers:
            async for answer in answers:
                yield answer

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
                    sessions=tuple(wire.session_with_events_from_pb(found.session) for found in page.sessions),
                    last_number=page.last_number,
                    sealed=page.sealed,
                )

    async def export_sessions(
        self, chosen: ExportFilter, *, events_limit: int | None = None, limit: int = 0, resume_token: str = ""
    ) -> AsyncGenerator[ExportPage, None]:
        pages = self.export_messages(chosen, events_limit=events_limit, limit=limit, resume_token=resume_token)
        async with aclosing(pages):
            async for page in pages:
                yield transfer_wire.export_page_from_pb(pb_transfer.ExportSessionsResponse.FromString(page.content))


def _sent(events: Sequence[SessionEvent | InvalidField]) -> SentEvents:
    return [event if isinstance(event, InvalidField) else wire.event_to_pb(event) for event in events]
