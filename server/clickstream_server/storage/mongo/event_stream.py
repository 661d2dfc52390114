"""A long-lived stream of events: read ahead, write many requests at once, several writes in flight, answer in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass

from clickstream.models import WriteOutcome
from clickstream.transfer import NO_SEQUENCE, EventAck, rising
from clickstream_server.limits import Limits
from clickstream_server.message_dao import SentBatch
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.parts import shares
from clickstream_server.storage.mongo.pipeline import in_order
from clickstream_server.storage.mongo.prepared_events import PreparedEvents, prepare
from clickstream_server.storage.observer import NOBODY, StorageObserver

EVENTS_PER_WRITE = 2_000
"""A bulk write is sent once it has so many events, or at once if no more requests wait."""
EVENTS_AHEAD_MAX = 20_000
BYTES_AHEAD_MAX = 16 * 1024 * 1024
"""Past so many events, valid or not, or bytes that wait to be answered, the stream is not read on."""
WRITES_IN_FLIGHT = 3
"""With four of them mongod took 20 µs of the processor for an event instead of 17."""


@dataclass(slots=True)
class _Waiting:
    """A request that was read, and its events as documents."""

    sequence: int
    prepared: PreparedEvents

    @property
    def weight(self) -> int:
        """What it counts as: invalid events wait for their answer, too, and so does a request without any."""
        return 1 + len(self.prepared.documents) + len(self.prepared.rejected)


class EventStreamer:
    """Runs the server's side of one stream."""

    def __init__(
        self, events: EventStore, limits: Limits, *, timeout_s: float, observer: StorageObserver = NOBODY
    ) -> None:
        self._events = events
        self._limits = limits
        self._observer = observer
        self._timeout_s = timeout_s
        self._waiting: deque[_Waiting] = deque()
        self._events_ahead = 0
        self._bytes_ahead = 0
        self._changed = asyncio.Condition()
        self._ended = False

    async def run(self, batches: AsyncIterable[SentBatch]) -> AsyncGenerator[EventAck, None]:
        """Yield one acknowledgement for each batch, in order, each once its events are durable."""
        async with aclosing(in_order(self._groups(batches), self._write, in_flight=WRITES_IN_FLIGHT)) as written:
            async for acks in written:
                for ack in acks:
                    yield ack

    async def _groups(self, batches: AsyncIterable[SentBatch]) -> AsyncGenerator[list[_Waiting], None]:
        """What waits, as one group at a time: while a write is in flight, what arrives forms the next group."""
        reading = asyncio.create_task(self._read(batches))
        try:
            while group := await self._next_group():
                yield group
            await reading  # raises what was wrong with the stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, batches: AsyncIterable[SentBatch]) -> None:
        """Read and check, as far ahead as is allowed."""
        last = NO_SEQUENCE
        try:
            async for batch in batches:
                last = rising(batch.sequence, last)
                request = _Waiting(batch.sequence, await prepare(batch.events, self._limits))
                async with self._changed:
                    await self._changed.wait_for(self._has_room)
                    self._waiting.append(request)
                    self._events_ahead += request.weight
                    self._bytes_ahead += request.prepared.size
                    self._changed.notify_all()
        finally:
            async with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._events_ahead < EVENTS_AHEAD_MAX and self._bytes_ahead < BYTES_AHEAD_MAX

    async def _next_group(self) -> list[_Waiting]:
        """The next group; empty once the stream has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._ended)
            group: list[_Waiting] = []
            size = 0
            while self._waiting and size < EVENTS_PER_WRITE:
                group.append(self._waiting.popleft())
                size += group[-1].weight
            return group

    async def _write(self, group: list[_Waiting]) -> list[EventAck]:
        try:
            return await self._store(group)
        finally:
            async with self._changed:
                self._events_ahead -= sum(request.weight for request in group)
                self._bytes_ahead -= sum(request.prepared.size for request in group)
                self._changed.notify_all()

    async def _store(self, group: list[_Waiting]) -> list[EventAck]:
        documents = [document for request in group for document in request.prepared.documents]
        outcomes: list[WriteOutcome] = []
        if documents:
            async with storage_call(self._timeout_s):
                outcomes = await self._events.insert(documents)
        acks = []
        sizes = [len(request.prepared.documents) for request in group]
        for request, own in zip(group, shares(outcomes, sizes), strict=True):
            result = request.prepared.result(own)
            self._observer.stored_all("event", "stream", result)
            acks.append(EventAck(acked_sequence=request.sequence, result=result))
        return acks
