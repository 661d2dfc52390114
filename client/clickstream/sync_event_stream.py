"""SyncEventStream: EventStream for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from clickstream.background import Background, Carried, carrying, check_caller
from clickstream.client import ClickstreamClient
from clickstream.errors import Cancelled
from clickstream.event_stream import CLOSED, NOT_ENTERED, EventStream, FailureHandler
from clickstream.models import ItemFailure, PushResult, SessionEvent
from clickstream.v1 import event_pb2


class SyncEventStream:
    """EventStream for callers that are not asynchronous.

        with client.event_stream() as stream:
            stream.send(event)
        print(stream.totals)

    Several threads may send. Made by `SyncClickstreamClient.event_stream`.

    A change of thread costs more than an event. So events are gathered in the caller's thread, while the loop takes
    those that came before: at most as many as make a request, then `send` waits.
    """

    def __init__(
        self, owner: object, background: Background, *, on_failure: FailureHandler | None, **options: Any
    ) -> None:
        self._owner = owner  # a client that nothing holds is closed
        self._background = background
        self._options = {"on_failure": on_failure and carrying(on_failure), **options}
        self._most_events = min(options["batch_events"], options["unacked_events"])
        self._most_bytes = options["batch_bytes"]
        # Only those who send take the lock, not the loop: a signal handler that sends may interrupt one who holds it.
        self._lock = threading.RLock()
        self._gathered: deque[tuple[SessionEvent, event_pb2.SessionEvent] | asyncio.Future[None]] = deque()
        """Events, and marks of those who wait until the loop has taken what stands before."""
        self._leaving = False
        self._lost = False
        """Whether the stream had ended before it took an event."""
        self._sent_bytes = self._taken_bytes = 0
        self._woken = False
        self._taking: asyncio.Task[None] | None = None
        self._opened: EventStream | None = None

    def __enter__(self) -> Self:
        async def opened(client: ClickstreamClient) -> EventStream:
            return await client.event_stream(**self._options).__aenter__()

        self._opened = self._background.run(opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until everything is durable; after an error inside, stop at once."""

        async def ended(_: ClickstreamClient) -> None:
            try:
                if error is None:
                    await self._taken()
            finally:
                await self._stream.__aexit__(kind, error, traceback)

        with self._lock:
            self._leaving = True
        if error is None:
            self._background.run(ended)
        else:
            with suppress(Cancelled):  # the client was closed meanwhile: the error inside tells more
                self._background.run(ended)

    def send(self, event: SessionEvent) -> None:
        """See `EventStream.send`."""
        check_caller()
        self._raise_error()
        message = self._stream.message_of(event)
        with self._lock:
            if self._leaving:  # whoever leaves the context has not waited for this event
                raise Cancelled(CLOSED)
            self._gathered.append((event, message))
            self._sent_bytes += message.ByteSize()
        if len(self._gathered) >= self._most_events or self._sent_bytes - self._taken_bytes >= self._most_bytes:
            self._background.run(lambda _: self._taken())
            if self._lost:
                self._raise_error()
        elif not self._woken:
            self._woken = True
            self._background.post(self._take_soon)

    def flush(self) -> PushResult:
        """See `EventStream.flush`."""
        stream = self._stream

        async def flushed(_: ClickstreamClient) -> PushResult:
            await self._taken()
            return await stream.flush()

        return self._background.run(flushed)

    @property
    def totals(self) -> PushResult:
        """The account of everything that is acknowledged."""
        return self._stream.totals

    @property
    def failures(self) -> list[tuple[SessionEvent, ItemFailure]]:
        """What was not stored, and why; empty with `on_failure`."""
        return self._stream.failures

    @property
    def _stream(self) -> EventStream:
        if self._opened is None:
            raise RuntimeError(NOT_ENTERED)
        return self._opened

    def _raise_error(self) -> None:
        try:
            self._stream.raise_error()
        except Carried as carried:
            carried.reraise()

    async def _taken(self) -> None:
        """Wait until the loop has taken what is gathered by now. A wait that is interrupted loses none of it."""
        mark = asyncio.get_running_loop().create_future()
        self._gathered.append(mark)
        self._take_soon()
        await mark

    def _take_soon(self) -> None:
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take())

    async def _take(self) -> None:
        """The loop's side: until nothing is gathered."""
        while True:
            self._woken = False  # what is sent from here on is seen below, or wakes again
            if not self._gathered:
                return
            while self._gathered:
                first = self._gathered[0]
                if isinstance(first, asyncio.Future):
                    if not first.done():  # it is, where the wait was interrupted
                        first.set_result(None)
                else:
                    event, message = first
                    try:
                        await self._stream.take(event, message)
                    except Exception:  # the stream has ended, and tells those who send why
                        self._lost = True
                    self._taken_bytes += message.ByteSize()
                self._gathered.popleft()
