"""MongoClickstreamDao: the storage behind the interface."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing
from typing import Any

from clickstream.dao import DEFAULT_EVENTS_LIMIT
from clickstream.errors import InvalidField, SessionNotFound
from clickstream.export import ExportFilter
from clickstream.models import (
    BatchList,
    BatchRelease,
    PushResult,
    SessionBatch,
    SessionBatchStatus,
)
from clickstream.transfer import (
    EventAck,
    ImportConfig,
    ImportProgress,
    ImportSummary,
)
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream_server.clock import now_micros
from clickstream_server.limits import Limits, check_id, check_not_negative
from clickstream_server.message_dao import (
    BatchQuery,
    EncodedAnswer,
    MessageDao,
    MessagePage,
    SentBatch,
    SentChunk,
    SentEvents,
)
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.batches import BatchStore
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX, database_of, maybe_await, members_of
from clickstream_server.storage.mongo.errors import cause_of, storage_call
from clickstream_server.storage.mongo.event_stream import EventStreamer
from clickstream_server.storage.mongo.events import EventStore, FoundEvents
from clickstream_server.storage.mongo.exporter import Exporter
from clickstream_server.storage.mongo.from_pb import session_document
from clickstream_server.storage.mongo.getter import Getter
from clickstream_server.storage.mongo.importer import Importer
from clickstream_server.storage.mongo.new_primary import UpToDate
from clickstream_server.storage.mongo.numbering import Intent, SessionWrite, WriteResult
from clickstream_server.storage.mongo.paging import events_bytes_max, too_large
from clickstream_server.storage.mongo.prepared_events import prepare_call
from clickstream_server.storage.mongo.pusher import Pusher
from clickstream_server.storage.mongo.raw_batches import TooManyBytes
from clickstream_server.storage.mongo.reader import BatchReader
from clickstream_server.storage.mongo.registrar import Registrar
from clickstream_server.storage.mongo.to_pb import registered_message, registration_message, session_message
from clickstream_server.storage.mongo.transactions import past_abandoned
from clickstream_server.storage.mongo.watcher import Lag
from clickstream_server.storage.observer import NOBODY, StorageObserver

_BUILD_S_MAX = 24 * 3600.0
_log = logging.getLogger(__name__)


class MongoClickstreamDao(MessageDao):
    """The interface on a MongoDB replica set or sharded cluster, over Motor or PyMongo Async.

    `client` comes from `driver.connect` and stays the caller's to close. `timeout_s` bounds every step in the database;
    a nearer deadline (see `clickstream_server.deadlines`) bounds it more.
    """

    def __init__(
        self,
        client: Any,
        database: str,
        *,
        limits: Limits | None = None,
        timeout_s: float = 10.0,
        observer: StorageObserver = NOBODY,
    ) -> None:
        self._client = client
        self._observer = observer
        self._database = database_of(client, database)
        self._sessions = self._database[indexes.SESSIONS]
        self._limits = limits or Limits()
        self._timeout_s = timeout_s
        self._up_to_date = UpToDate(client, self._database)
        self._batches = BatchStore(client, self._database, self._up_to_date)
        self._events = EventStore(self._database)
        self._registrar = Registrar(client, self._database, timeout_s=timeout_s, observer=observer)
        self._pusher = Pusher(self._events, timeout_s=timeout_s, observer=observer)
        self._getter = Getter(client, self._database, self._up_to_date, timeout_s=timeout_s, observer=observer)
        self._exporter = Exporter(
            self._database, self._up_to_date, self._batches, self._events, self._limits, timeout_s=timeout_s
        )
        self._reader = BatchReader(
            self._database,
            self._up_to_date,
            self._batches,
            self._events,
            events_bytes_max=events_bytes_max(self._limits),
            timeout_s=timeout_s,
        )

    async def foreign_collections(self) -> list[str]:
        """The collections with our names that another program has filled: what is read there would be no session."""
        async with storage_call(self._timeout_s):
            return await indexes.foreign(self._database)

    async def open(self) -> None:
        """Make the collections and indexes that are missing. It takes as long as what is stored takes to be indexed."""
        async with storage_call(self._timeout_s):
            unbuilt = await indexes.unbuilt(self._database)
        if unbuilt:
            _log.warning("indexes are built over what is stored, which may take long: %s", indexes.told(unbuilt))
        # MongoDB throws away what it has built once the time is over: begun again and again, it would never be done.
        async with storage_call(_BUILD_S_MAX if unbuilt else self._timeout_s):
            await indexes.ensure_indexes(self._database)
        async with storage_call(self._timeout_s):
            await self._up_to_date.begin()

    async def mend(self) -> None:
        """Make again the collections and indexes that somebody has dropped, alone or with the database."""
        async with storage_call(self._timeout_s):
            missing = await indexes.missing(self._database)
        if missing:
            _log.warning("somebody dropped indexes, alone or with what they are of: %s", indexes.told(missing))
            await self.open()

    async def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        """Refuse new calls, finish those that wait, stop watching. Each step waits `timeout_s` seconds at most."""
        await asyncio.gather(*(gatherer.close(timeout_s) for gatherer in (self._registrar, self._pusher, self._getter)))
        await self._reader.close(timeout_s)

    @property
    def waiting(self) -> tuple[int, int]:
        """How many calls wait for their numbers now, and how many bytes they have."""
        return self._registrar.waiting

    def lags(self) -> list[Lag]:
        """How far each reader that follows a batch is behind."""
        return self._reader.lags()

    async def ping(self, timeout_s: float) -> None:
        """Raise Unavailable unless the database has a primary that answers now."""
        async with storage_call(timeout_s):
            await maybe_await(self._database.command("ping"))

    def why_away(self, error: BaseException) -> str:
        """What is known of the reason for which `ping` raised this."""
        return "; ".join(filter(None, [cause_of(error), members_of(self._client)]))

    async def register_session_message(self, session: session_pb2.Session) -> pb.RegisterSessionResponse:
        done = await self._take_number(session, Intent.REGISTER)
        assert done.stored is not None
        return registration_message(done.stored, done.outcome)

    async def update_session_message(self, session: session_pb2.Session) -> session_pb2.RegisteredSession:
        done = await self._take_number(session, Intent.UPDATE)
        assert done.stored is not None
        return registered_message(done.stored)

    async def _take_number(self, session: session_pb2.Session, intent: Intent) -> WriteResult:
        """Check the session and let the registrar give it the next number in the collecting batch."""
        try:
            document, size = session_document(session, now_micros=now_micros(), limits=self._limits)
        except InvalidField as error:
            raise error.under("session") from None
        done = await self._registrar.submit(SessionWrite(document, content_bytes=size, intent=intent))
        self._observer.stored("session", "update" if intent is Intent.UPDATE else "register", done.outcome, 1)
        return done

    async def push_event_messages(self, events: SentEvents) -> PushResult:
        prepared = await prepare_call(events, self._limits)
        result = prepared.result(await self._pusher.push(prepared))
        self._observer.stored_all("event", "push", result)
        return result

    async def mark_session_irrelevant_message(self, session_id: str) -> session_pb2.RegisteredSession:
        check_id("session_id", session_id, self._limits)
        async with storage_call(self._timeout_s), past_abandoned(self._database.client):
            # Not in one findAndModify: see `driver.PLAIN_CODEC`, which sessions cannot have.
            marked = await self._sessions.update_one({"_id": session_id}, {"$set": {"is_irrelevant": True}})
            if not marked.matched_count:
                raise SessionNotFound.by_id(session_id)
            changed: Document = await self._up_to_date.read(lambda: self._sessions.find_one({"_id": session_id}))
        return registered_message(changed)

    async def get_session_message(
        self, session_id: str, *, events_limit: int | None = DEFAULT_EVENTS_LIMIT
    ) -> session_pb2.SessionWithEvents | None:
        check_id("session_id", session_id, self._limits)
        check_not_negative(events_limit=events_limit)
        found = await self._getter.get(session_id, events_limit)
        if found is None:
            return None
        events = found.events
        if events is None:
            async with storage_call(self._timeout_s):
                events = await self._events_of(session_id, events_limit)
        return session_message(found.document, events)

    async def _events_of(self, session_id: str, limit: int | None) -> FoundEvents:
        try:
            most = events_bytes_max(self._limits)
            return await self._up_to_date.read(lambda: self._events.of_session(session_id, limit=limit, bytes_max=most))
        except TooManyBytes:
            raise too_large(session_id) from None

    async def get_batch_messages(self, query: BatchQuery) -> AsyncGenerator[MessagePage, None]:
        check_not_negative(after_number=query.after_number, limit=query.limit, events_limit=query.events_limit)
        if query.batch_id or not query.follow:
            check_id("batch_id", query.batch_id, self._limits)
        async with aclosing(self._reader.pages(query)) as pages:
            async for page in pages:
                yield page

    async def get_batch(self, batch_id: str) -> SessionBatch | None:
        check_id("batch_id", batch_id, self._limits)
        async with storage_call(self._timeout_s):
            return await self._batches.get(batch_id)

    async def list_batches(
        self, *, statuses: Sequence[SessionBatchStatus] = (), page_size: int = 0, page_token: str = ""
    ) -> BatchList:
        check_not_negative(page_size=page_size)
        async with storage_call(self._timeout_s):
            return await self._batches.list(statuses, page_size, page_token)

    async def release_batch(self, release_id: str) -> BatchRelease:
        check_id("release_id", release_id, self._limits)
        async with storage_call(self._timeout_s):
            return await self._batches.release(release_id)

    async def update_batch_status(
        self, batch_id: str, status: SessionBatchStatus, *, expected_status: SessionBatchStatus | None = None
    ) -> SessionBatch:
        check_id("batch_id", batch_id, self._limits)
        async with storage_call(self._timeout_s):
            return await self._batches.update_status(batch_id, status, expected_status)

    async def stream_event_messages(self, batches: AsyncIterable[SentBatch]) -> AsyncGenerator[EventAck, None]:
        streamer = EventStreamer(self._events, self._limits, timeout_s=self._timeout_s, observer=self._observer)
        async with aclosing(streamer.run(batches)) as acks:
            async for ack in acks:
                yield ack

    async def import_session_messages(
        self, config: ImportConfig, chunks: AsyncIterable[SentChunk]
    ) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        importer = Importer(
            config, self._events, self._registrar, self._limits, timeout_s=self._timeout_s, observer=self._observer
        )
        async with aclosing(importer.run(chunks)) as answers:
            async for answer in answers:
                yield answer

    async def export_messages(
        self, chosen: ExportFilter, *, events_limit: int | None = None, limit: int = 0, resume_token: str = ""
    ) -> AsyncGenerator[EncodedAnswer, None]:
        check_not_negative(events_limit=events_limit, limit=limit)
        pages = self._exporter.pages(chosen, events_limit=events_limit, limit=limit, resume_token=resume_token)
        async with aclosing(pages):
            async for page in pages:
                yield page
