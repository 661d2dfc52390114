"""EventStream: a producer's side of StreamEvents that survives lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc.aio

from clickstream import transfer_wire, wire
from clickstream.call_errors import lost_connection
from clickstream.errors import Cancelled, ClickstreamError, MessageTooLarge, Unavailable
from clickstream.models import ItemFailure, PushResult, SessionEvent
from clickstream.outbox import Outbox
from clickstream.resume import Patience
from clickstream.v1 import event_pb2
from clickstream.v1 import transfer_service_pb2 as pb

UNACKED_BYTES_MAX = 32 * 1024 * 1024
"""So much is kept until it is acknowledged; `send` waits past it."""

_OVERHEAD_BYTES = 64
"""For what a request has beside its events."""
_EVENT_OVERHEAD_BYTES = 6
"""For what an event has around it in a request: its field's number and its length."""
NOT_ENTERED = (
    "the stream is not open: write `with client.event_stream() as stream` (`async with`, if it is asynchronous)"
)
CLOSED = "the stream is closed"

FailureHandler = Callable[[SessionEvent, ItemFailure], None]


@dataclass(slots=True)
class _Batch:
    """Events that go out as one request, kept until they are acknowledged."""

    events: list[SessionEvent] = field(default_factory=list)
    request: pb.StreamEventsRequest = field(default_factory=pb.StreamEventsRequest)
    size: int = 0
    send_at: float = 0.0


class EventStream:
    """Sends events over one long-lived stream: nothing is lost and nothing is stored twice.

        async with client.event_stream() as stream:
            await stream.send(event)
        print(stream.totals)

    Events are gathered into requests by count, size and time. What is not acknowledged is kept, and sent again over a
    new connection if one is lost. `send` waits while too much is unacknowledged, so memory stays bounded. Leaving the
    context, and `flush`, wait until everything sent before is durable. An event that was stored, but whose
    acknowledgement was lost, counts as a duplicate.

    Several tasks may send. Once one leaves the context, `send` raises Cancelled.

    Events that were not stored (conflicts and invalid ones) are handed to `on_failure`; without it they are kept in
    `failures`.
    """

    def __init__(
        self,
        stub: Any,
        *,
        on_failure: FailureHandler | None,
        batch_events: int,
        batch_bytes: int,
        batch_s: float,
        unacked_events: int,
        deadline_s: float,
        patience: Patience,
        message_bytes_max: int,
        closed: Callable[[], bool],
    ) -> None:
        if unacked_events < 1:
            raise ValueError("unacked_events must be at least 1: with less nothing could be sent")
        self._stub = stub
        self._closed = closed
        self._on_failure = on_failure or self._keep_failure
        self._batch_events = batch_events
        self._most_bytes = message_bytes_max - _OVERHEAD_BYTES
        self._batch_bytes = min(batch_bytes, self._most_bytes)
        self._batch_s = batch_s
        self._unacked_max = unacked_events
        self._patience = patience
        self._message_bytes_max = message_bytes_max
        self._filling = _Batch()
        self._outbox = Outbox[_Batch](deadline_s)
        self._changed = self._outbox.changed
        self._pending_events = 0
        self._pending_bytes = 0
        self._last_sequence = 0
        self._error: Exception | None = None
        self._traceback: TracebackType | None = None
        self._leaving = False
        self._working: asyncio.Task[None] | None = None
        self.totals = PushResult()
        self.failures: list[tuple[SessionEvent, ItemFailure]] = []

    async def __aenter__(self) -> Self:
        self._working = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until everything is durable; after an error inside, stop at once."""
        assert self._working is not None
        self._leaving = True
        try:
            if error is None:
                await self.flush()
        finally:
            self._working.cancel()
            try:
                await asyncio.gather(self._working, return_exceptions=True)
            finally:
                await self._fail(Cancelled(CLOSED))

    async def send(self, event: SessionEvent) -> None:
        """Take an event; it is durable after the next `flush`. Raises what ended the stream for good."""
        if not self._takes_at_once(event):
            await self.take(event, self.message_of(event))

    def message_of(self, event: SessionEvent) -> event_pb2.SessionEvent:
        """The event as it is sent. Raises InvalidField, or MessageTooLarge."""
        message = wire.event_to_pb(event)
        self._size_of(message)
        return message

    def _size_of(self, message: event_pb2.SessionEvent) -> int:
        """How many bytes the event takes in a request, at most."""
        size = message.ByteSize() + _EVENT_OVERHEAD_BYTES
        if size > self._most_bytes:
            raise MessageTooLarge(f"an event must fit into a message of {self._message_bytes_max} bytes")
        return size

    def _takes_at_once(self, event: SessionEvent) -> bool:
        """Take the event, if that asks for no more than to put it to the others.

        Its message is made inside of the request: one that is put into another is copied, 1 µs an event.
        """
        if not self._gathers():
            return False
        made = self._filling.request.events
        message = made.add()
        try:
            wire.write_event(message, event)
            size = self._size_of(message)
        except BaseException:
            del made[-1]
            raise
        if self._fills(size):
            del made[-1]
            return False
        self._gather(event, size)
        return True

    async def take(self, event: SessionEvent, message: event_pb2.SessionEvent) -> None:
        """Take an event whose message is made already; see `send`."""
        self._check_entered()
        size = message.ByteSize() + _EVENT_OVERHEAD_BYTES
        if self._gathers() and not self._fills(size):  # 2 µs less
            self._filling.request.events.append(message)
            self._gather(event, size)
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._error or self._leaving or self._has_room())
            self.raise_error()
            if self._leaving:  # what ends the stream does not wait for this event
                raise Cancelled(CLOSED)
            if self._filling.size + size > self._most_bytes:
                self._seal()
            if not self._filling.events:
                self._filling.send_at = monotonic() + self._batch_s
                self._changed.notify_all()
            full = self._fills(size)
            self._filling.request.events.append(message)
            self._gather(event, size)
            if full:
                self._seal()

    def _gathers(self) -> bool:
        """Whether there is a batch to put an event to, and nothing to wait for."""
        return bool(self._filling.events) and self._error is None and not self._leaving and self._has_room()

    def _fills(self, size: int) -> bool:
        """Whether an event of this size makes the batch one to be sent."""
        batch = self._filling
        return len(batch.events) + 1 >= self._batch_events or batch.size + size >= self._batch_bytes

    def _gather(self, event: SessionEvent, size: int) -> None:
        batch = self._filling
        batch.events.append(event)
        batch.size += size
        self._pending_events += 1
        self._pending_bytes += size

    async def flush(self) -> PushResult:
        """Wait until everything that was sent before the call is durable; return the totals so far.

        What others send meanwhile is not waited for, though the totals may count it.
        """
        self._check_entered()
        async with self._changed:
            self._seal()
            upto = self._last_sequence
            await self._changed.wait_for(lambda: self._error or self._is_acked(upto))
            self.raise_error()
        return self.totals

    def _is_acked(self, sequence: int) -> bool:
        """Whether this request is acknowledged, and with it all before it."""
        unacked = self._outbox.unacked
        return not unacked or unacked[0].request.sequence > sequence

    def raise_error(self) -> None:
        """Raise what ended the stream for good, if anything did."""
        if self._error is not None:
            # Python puts the frames of each who raises it in front of those before, and would keep them all.
            raise self._error.with_traceback(self._traceback)

    def _check_entered(self) -> None:
        if self._working is None:
            raise RuntimeError(NOT_ENTERED)

    def _has_room(self) -> bool:
        return self._pending_events < self._unacked_max and self._pending_bytes < UNACKED_BYTES_MAX

    def _seal(self) -> None:
        """Make what is gathered a request."""
        if self._filling.events:
            self._last_sequence += 1
            self._filling.request.sequence = self._last_sequence
            self._outbox.put(self._filling)
            self._filling = _Batch()

    def _keep_failure(self, event: SessionEvent, failure: ItemFailure) -> None:
        self.failures.append((event, failure))

    async def _work(self) -> None:
        """Keep a connection up for as long as the stream is open, or until it fails for good."""
        self._patience.renew()
        try:
            while True:
                try:
                    await self._converse()
                    if self._outbox.left:
                        continue
                    failure: ClickstreamError = Unavailable("the service ended the stream")
                except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                    failure = lost_connection(error, closed=self._closed())
                await self._patience.pause(failure, awaited=bool(self._outbox.unacked))
        except Exception as error:  # of the service, or of the failure handler: `send` and `flush` raise it
            await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        """End it for good; the first error counts."""
        async with self._changed:
            if self._error is None:
                self._error, self._traceback = error, error.__traceback__
            self._changed.notify_all()

    async def _converse(self) -> None:
        """One connection: send everything that is not acknowledged, then what comes; take the acknowledgements."""
        async with self._outbox.connected(self._stub.StreamEvents, self._requests) as call:
            async for answer in call:
                self._patience.renew()
                await self._acknowledge(answer)

    async def _requests(self, connection: int) -> AsyncIterator[pb.StreamEventsRequest]:
        async for batch in self._outbox.messages(connection, self._batch_comes):
            yield batch.request

    async def _batch_comes(self) -> bool:
        """Wait until something has changed; gathered events go out when their time has come."""
        wait_s = self._filling.send_at - monotonic() if self._filling.events else None
        if wait_s is not None and wait_s <= 0:
            self._seal()
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        return True

    async def _acknowledge(self, answer: pb.StreamEventsResponse) -> None:
        async with self._changed:
            unacked = self._outbox.unacked
            if not unacked or answer.acked_sequence != unacked[0].request.sequence:
                return  # an answer to what an earlier connection has sent and had acknowledged
            batch = unacked.popleft()
            self._pending_events -= len(batch.events)
            self._pending_bytes -= batch.size
            result = transfer_wire.event_ack_from_pb(answer).result
            self.totals = self.totals.plus(result)
            for failure in result.failures:
                self._on_failure(batch.events[failure.index], failure)
            self._changed.notify_all()
