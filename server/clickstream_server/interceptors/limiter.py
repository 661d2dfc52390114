"""What the server takes on at once; who comes beyond that is refused quickly, before the request is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, aclosing, nullcontext
from contextvars import ContextVar
from itertools import cycle
from random import choice, sample
from types import TracebackType
from typing import Any

import grpc.aio

from clickstream.errors import ClickstreamError, InvalidField, Overloaded
from clickstream_server.bounds import Bounds
from clickstream_server.interceptors.call import HEALTH, Call, Context, Handler
from clickstream_server.interceptors.load import Begun, Load

CALLS, STREAMS, BYTES, RECEIVING = "calls", "streams", "bytes", "receiving"
"""What there was too much of, for whoever counts refusals."""
RECEIVING_MAX = 16
"""So many requests are received at a time. Each may take twice a message's size of memory; before it is received, a
window's. Small ones come within a turn of the event loop, so that thousands a second do."""
SLOW_MAX = 8
"""So many of them may be large, or slow to come, while others wait."""
_ROUND_S = 0.05
"""So often is looked at what does not come. After that come..."""
_TURNS = 8
"""... so many turns of the event loop, in which gRPC can hand over what has come while the loop was busy."""
_SLOW_ROUNDS = 3
"""A request that is still missing after so many rounds is large or slow. By rounds and not by time, since it may be the
server that is slow: then rounds last longer."""
_STUCK_ROUNDS = 100
"""One that is missing after so many gives way to others."""
_RETRY_S = [milliseconds / 1000 for milliseconds in range(250, 750, 5)]
"""Spread, so that those who were refused together do not come back together; few enough to be kept ready."""


_EXEMPT = nullcontext()
_admitted: ContextVar[_Admitted | None] = ContextVar("clickstream_admitted", default=None)


def _nothing(_limit: str) -> None:
    """Count no refusals."""


class Limiter:
    """Calls that answer once and streams are counted apart, so that neither starves the other. Health is exempt.

    Stands innermost: what is refused for other reasons takes no room. `refused` is called with what there was too much
    of.
    """

    def __init__(self, bounds: Bounds | None = None, *, refused: Callable[[str], None] = _nothing) -> None:
        self._bounds = bounds or Bounds()
        self._tell = refused
        self._load = Load(self._bounds.calls_max, self._bounds.queue_s_max)
        self._streams = 0
        self._request_bytes = 0
        self._receiving = _Receiving()
        self._ready = cycle([_overloaded(retry_after_s) for retry_after_s in sample(_RETRY_S, len(_RETRY_S))])

    def prepared(self, handler: Handler) -> Handler:
        """Have requests read inside of `around`: gRPC itself would read the only one of a call before that."""
        if handler.request_streaming:
            return handler
        if handler.response_streaming:
            stream = self._reading_stream(handler.unary_stream)
            return handler._replace(request_streaming=True, unary_stream=None, stream_stream=stream)
        return handler._replace(
            request_streaming=True, unary_unary=None, stream_unary=self._reading(handler.unary_unary)
        )

    def _reading(self, behaviour: Callable[[Any, Context], Coroutine[Any, Any, Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(_: AsyncIterator[Any], context: Context) -> Any:
            request = await self._request(context)
            return await behaviour(request, context)

        return answer

    def _reading_stream(self, behaviour: Callable[[Any, Context], Any]) -> Callable[..., AsyncIterator[Any]]:
        async def stream(_: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(await self._request(context), context)) as answers:
                async for answer in answers:
                    yield answer

        return stream

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Admit the call, or raise. Of calls that answer once, `full` is to be asked before."""
        if call.method.startswith(HEALTH):
            return _EXEMPT
        if call.streams:
            if self._streams >= self._bounds.streams_max:
                raise self._refusal(STREAMS)
            return _Stream(self)
        return _Admitted(self, call.method)

    def full(self, method: str) -> bool:
        """Whether this call, which answers once, is to be refused."""
        return not (method.startswith(HEALTH) or self._load.has_room)

    def refused(self) -> Overloaded:
        """It is refused: the error for it, which is not to be raised, since others get the same one."""
        self._load.refused()
        self._tell(CALLS)
        return next(self._ready)

    def stream(self, change: int) -> None:
        """So many streams more."""
        self._streams += change

    def begin(self) -> Begun:
        """An admitted call begins; return what `end` is to be told."""
        return self._load.begin()

    def end(self, admitted: _Admitted, *, answered: bool) -> None:
        """It has ended."""
        self._request_bytes -= admitted.size
        self._load.end(admitted.method, admitted.begun, answered=answered)

    def stop(self) -> None:
        """The server stops, and waits for calls that run: not for requests that do not come."""
        self._receiving.stopping = True

    def admit(self, size: int) -> Overloaded | None:
        """The request of the call that runs now has come: None if it may be parsed, else what to answer.

        One alone may be of any size. The messages of streams are not counted: what reads them bounds them.
        """
        admitted = _admitted.get()
        if admitted is None:
            return None
        if self._request_bytes and self._request_bytes + size > self._bounds.request_bytes_max:
            return self._refusal(BYTES)
        admitted.size = size
        self._request_bytes += size
        return None

    async def _request(self, context: Context) -> Any:
        """The request of a call that has one. Read without its iterator, which would have to be closed each time."""
        try:
            request = await self._receiving.read(context)
        except TimeoutError:
            raise self._refusal(RECEIVING) from None
        if request is grpc.aio.EOF:
            raise InvalidField.at("", "the call must carry a request")
        if isinstance(request, ClickstreamError):  # it could not be read
            raise request
        return request

    def _refusal(self, limit: str) -> Overloaded:
        self._tell(limit)
        return _overloaded(choice(_RETRY_S))


def _overloaded(retry_after_s: float) -> Overloaded:
    return Overloaded("the server has as much to do as it can take on; try again later", retry_after_s=retry_after_s)


class _Admitted:
    """Around a call that answers once. `size`: of its request, once that is known."""

    __slots__ = ("_limiter", "begun", "method", "size")

    def __init__(self, limiter: Limiter, method: str) -> None:
        self._limiter = limiter
        self.method = method
        self.size = 0

    def __enter__(self) -> None:
        self.begun = self._limiter.begin()
        _admitted.set(self)  # for the rest of this task, which is the call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limiter.end(self, answered=error is None)


class _Stream:
    """Around a stream."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def __enter__(self) -> None:
        self._limiter.stream(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limiter.stream(-1)


class _Receiving:
    """The requests that are coming in. While others wait for a place, some that are large or slow are given up.

    Once it is `stopping`, all that are stuck are.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._places = asyncio.Semaphore(RECEIVING_MAX)
        self._since: dict[asyncio.Timeout, int] = {}
        """The round in which each began, the oldest first."""
        self._round = 0
        self._watching: asyncio.Task[None] | None = None

    async def read(self, context: Context) -> Any:
        """The request. Raises TimeoutError if it was given up."""
        async with self._places, asyncio.timeout(None) as patience:
            self._since[patience] = self._round
            if self._watching is None:
                self._watching = asyncio.create_task(self._watch())
            try:
                return await context.read()
            finally:
                self._since.pop(patience, None)

    async def _watch(self) -> None:
        while self._since:
            await asyncio.sleep(_ROUND_S)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            self._round += 1
            self._give_up()
        self._watching = None

    def _give_up(self) -> None:
        slow = [patience for patience, since in self._since.items() if self._round - since > _SLOW_ROUNDS]
        stuck = [patience for patience in slow if self._round - self._since[patience] > _STUCK_ROUNDS]
        if self._places.locked():  # others may wait for one
            surplus = len(slow) - (0 if self.stopping else SLOW_MAX)
        else:
            surplus = len(stuck) if self.stopping else 0
        # Those that are stuck first, so that nobody can keep the others out; then those that came last.
        for patience in [*stuck, *reversed(slow[len(stuck) :])][: max(0, surplus)]:
            del self._since[patience]
            patience.reschedule(asyncio.get_running_loop().time())
