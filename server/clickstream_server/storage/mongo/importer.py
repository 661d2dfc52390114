"""Importing sessions with their events, chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from contextlib import aclosing, closing, nullcontext
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from clickstream.errors import ClickstreamError, InvalidField
from clickstream.models import WriteOutcome
from clickstream.transfer import (
    NO_SEQUENCE,
    ImportAtomicity,
    ImportConfig,
    ImportMode,
    ImportProgress,
    ImportSummary,
    rising,
    too_many_failed,
)
from clickstream.v1 import session_pb2
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream_server.clock import now_micros
from clickstream_server.limits import Limits, check_id
from clickstream_server.message_dao import ItemParts, SentChunk
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.dry_run import DryRun
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.from_pb import session_document
from clickstream_server.storage.mongo.import_items import Chunk, Item, Tally
from clickstream_server.storage.mongo.numbering import Intent, SessionWrite, WriteResult, plan
from clickstream_server.storage.mongo.parts import in_parts, shares
from clickstream_server.storage.mongo.pipeline import in_order
from clickstream_server.storage.mongo.prepared_events import prepare
from clickstream_server.storage.mongo.registrar import Registrar
from clickstream_server.storage.observer import NOBODY, StorageObserver

A = TypeVar("A")
B = TypeVar("B")

CHUNKS_IN_FLIGHT = 4
ITEMS_AHEAD_MAX = 10_000
BYTES_AHEAD_MAX = 16 * 1024 * 1024
"""So many sessions and events, or bytes of them, of an import wait at most, or one chunk if that is larger."""
PREPARED_AT_ONCE = 32
SIMULATED_AT_ONCE = 1_000
"""Sessions and events of a dry run, or one session with its events. Other calls wait meanwhile, about 50 ms."""


class Importer:
    """Runs one import."""

    def __init__(
        self,
        config: ImportConfig,
        events: EventStore,
        registrar: Registrar,
        limits: Limits,
        *,
        timeout_s: float,
        observer: StorageObserver = NOBODY,
    ) -> None:
        check_id("config.import_id", config.import_id, limits)
        if not 0 <= config.max_failure_ratio <= 1:
            raise InvalidField.at("config.max_failure_ratio", "must lie between 0 and 1")
        self._config = config
        self._limits = replace(limits, age_s_max=None)  # what is imported may be of any age
        self._events = events
        self._registrar = registrar
        self._observer = observer
        self._timeout_s = timeout_s
        self._intent = Intent.REPLACE if config.mode is ImportMode.REPLACE_EXISTING else Intent.REGISTER
        self._atomic = config.atomicity is ImportAtomicity.PER_SESSION
        self._tally = Tally()
        self._stop = asyncio.Event()
        self._ahead = 0
        self._bytes_ahead = 0
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()
        """Chunks that wait for it get it in their order."""
        self._dry_run: DryRun | None = None

    async def run(self, chunks: AsyncIterable[SentChunk]) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        """Yield progress for each chunk, in order, and the summary. Raises ImportAborted past the failure ratio."""
        started = monotonic()
        judged: tuple[int, int] | None = None
        with closing(DryRun()) if self._config.dry_run else nullcontext() as self._dry_run:
            done = in_order(self._until_stopped(chunks), self._import, in_flight=CHUNKS_IN_FLIGHT)
            async with aclosing(done):
                async for chunk in done:
                    yield self._tally.add(chunk)
                    seen = self._tally.failed, self._tally.processed
                    if self._config.stops_at(*seen):
                        self._stop.set()
                        judged = seen  # the last time that this is so: of the chunks in flight fewer may fail
        tally = self._tally
        yield ImportSummary(
            processed=tally.processed,
            sessions=tally.sessions,
            events=tally.events,
            elapsed_s=monotonic() - started,
            aborted=judged is not None,
        )
        if judged is not None:
            raise too_many_failed(*judged, self._config.max_failure_ratio)

    async def _until_stopped(self, chunks: AsyncIterable[SentChunk]) -> AsyncGenerator[Chunk, None]:
        last = NO_SEQUENCE
        async with aclosing(_until_set(self._stop, chunks)) as coming:
            async for chunk in coming:
                try:
                    last = rising(chunk.sequence, last)
                except InvalidField as error:
                    raise error.under("chunk") from None
                read = await self._read(chunk)
                async with self._changed:
                    await self._changed.wait_for(partial(self._has_room, read))
                    self._ahead += read.weight
                    self._bytes_ahead += read.size
                yield read

    async def _read(self, chunk: SentChunk) -> Chunk:
        """The chunk's items as documents. Raises InvalidField if there are too many, or too many events in them."""
        count, most = len(chunk.items), self._limits.events_per_call_max
        if count > most:  # before their events are counted: of millions of items that takes half a minute
            raise InvalidField.at("chunk.items", f"must be {most} at most, not {count}")
        if (events := sum(len(item.events) for item in chunk.items)) > most:
            raise InvalidField.at("chunk.items", f"must have {most} events, not {events}")
        items = []
        for place, item in enumerate(chunk.items, start=1):
            items.append(await self._prepare(item))
            if place % PREPARED_AT_ONCE == 0:  # 3 ms: what was read before goes on meanwhile, and so do other calls
                await asyncio.sleep(0)
        return Chunk(chunk.sequence, items, count + events, sum(item.size for item in items))

    def _has_room(self, chunk: Chunk) -> bool:
        return not self._ahead or (
            self._ahead + chunk.weight <= ITEMS_AHEAD_MAX and self._bytes_ahead + chunk.size <= BYTES_AHEAD_MAX
        )

    # --- one chunk --------------------------------------------------------------------------------------------------

    async def _import(self, chunk: Chunk) -> Chunk:
        try:
            await self._store(chunk.items)
        finally:
            async with self._changed:
                self._ahead -= chunk.weight
                self._bytes_ahead -= chunk.size
                self._changed.notify_all()
        chunk.count()
        if self._dry_run is None:
            self._observer.stored_all("session", "import", chunk.sessions)
            self._observer.stored_all("event", "import", chunk.events)
        return chunk

    async def _store(self, items: list[Item]) -> None:
        """Store what is valid, and note what became of it."""
        together, loose = self._parted(items)
        sessions = [item.session for item in together if item.session is not None]
        documents = [document for item in loose for document in item.events.documents]
        if self._dry_run is not None:
            async with self._turn:
                numbered, outcomes = await self._simulate(sessions, documents, self._dry_run)
        else:
            numbered, outcomes = await _both(self._number(sessions), self._insert(documents))
        for item, result in zip(together, numbered, strict=True):
            item.settle(result)
        sizes = [len(item.events.documents) for item in loose]
        for item, own in zip(loose, shares(outcomes, sizes), strict=True):
            item.event_outcomes = own

    def _parted(self, items: list[Item]) -> tuple[list[Item], list[Item]]:
        """The items whose sessions are to be numbered, and those whose events stand each on its own."""
        if not self._atomic:
            return [item for item in items if item.session is not None], items
        together, loose = [], []
        for item in items:
            if item.invalid:
                item.refuse()
            elif item.session is None:
                loose.append(item)
            else:
                item.session.events = item.events.documents
                item.session.content_bytes = item.size
                together.append(item)
        return together, loose

    async def _prepare(self, item: pb.ImportItem | ItemParts) -> Item:
        write, fault, session_id = None, None, ""
        session = _session(item)
        if isinstance(session, InvalidField):
            fault, session_id = session.under("session"), session.item_id
        elif session is not None:
            session_id = session.session_id
            try:
                document, size = session_document(session, now_micros=now_micros(), limits=self._limits)
                write = SessionWrite(document, content_bytes=size, intent=self._intent)
            except InvalidField as error:
                fault = error.under("session")
        prepared = await prepare(item.events, self._limits, item_session_id=session_id)
        outcome = WriteOutcome.REJECTED if fault else None
        return Item(session_id, write, fault, prepared, session_outcome=outcome)

    async def _number(self, calls: list[SessionWrite]) -> list[WriteResult]:
        """Store the sessions with their numbers."""
        return await self._registrar.submit_in_turn(calls) if calls else []

    async def _insert(self, new: list[Document]) -> list[WriteOutcome]:
        """Store events that stand each on its own."""
        if not new:
            return []
        replace = self._intent is Intent.REPLACE
        # One chunk after the other where the last one of an id is to stay.
        async with self._turn if replace else nullcontext(), storage_call(self._timeout_s):
            return await self._events.insert(new, replace=replace)

    async def _simulate(
        self, calls: list[SessionWrite], new: list[Document], dry_run: DryRun
    ) -> tuple[list[WriteResult], list[WriteOutcome]]:
        """What `_number` and `_insert` would return if what the dry run would have stored were stored."""
        results: list[WriteResult | ClickstreamError] = []
        outcomes: list[WriteOutcome] = []
        async with storage_call(self._timeout_s):
            for part in in_parts(calls, _weight_of, SIMULATED_AT_ONCE):
                stored, stored_events = await self._registrar.look_up(part)
                stored |= dry_run.sessions(call.document["_id"] for call in part)
                stored_events |= dry_run.events(event for call in part for event in call.events)
                made = plan(part, stored, stored_events, collecting="", now=now_micros())
                dry_run.add(made.sessions.values(), made.events.values())
                results += made.results()
            replace = self._intent is Intent.REPLACE
            for at in range(0, len(new), SIMULATED_AT_ONCE):
                outcomes += await self._events.simulate_insert(
                    new[at : at + SIMULATED_AT_ONCE], dry_run, replace=replace
                )
        return [result for result in results if isinstance(result, WriteResult)], outcomes


def _weight_of(call: SessionWrite) -> int:
    return 1 + len(call.events)


async def _both(numbering: Coroutine[Any, Any, A], inserting: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """The results of both; or an error, the numbering's first, once neither is under way.

    What is told as failed may be sent again, and newer content after it: a write of the first time would replace that.
    """
    tasks = asyncio.create_task(numbering), asyncio.create_task(inserting)
    try:
        await asyncio.gather(*tasks, return_exceptions=True)
        return tasks[0].result(), tasks[1].result()
    finally:
        del tasks  # an error's traceback holds this frame


def _session(item: pb.ImportItem | ItemParts) -> session_pb2.Session | InvalidField | None:
    if isinstance(item, ItemParts):
        return item.session
    return item.session if item.HasField("session") else None


async def _until_set(stop: asyncio.Event, chunks: AsyncIterable[SentChunk]) -> AsyncGenerator[SentChunk, None]:
    """The chunks, until there are no more or `stop` is set, which is not put off until another one comes."""
    source = aiter(chunks)
    tasks: set[asyncio.Task[Any]] = {stopped := asyncio.create_task(stop.wait())}
    try:
        while not stop.is_set():
            tasks.add(coming := asyncio.create_task(_next(source)))
            await asyncio.wait((coming, stopped), return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set() or (chunk := coming.result()) is None:
                return
            tasks.discard(coming)
            yield chunk
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(source: AsyncIterator[SentChunk]) -> SentChunk | None:
    return await anext(source, None)
