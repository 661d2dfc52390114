"""What the server takes on at once; who comes beyond that is refused quickly, before the request is read."""

from __future__ import annotations

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
from clickstream_server.interceptors.receiving import SLOW_MAX, Receiving

CALLS, STREAMS, BYTES, RECEIVING = "calls", "streams", "bytes", "receiving"
"""What there was too much of, for whoever counts refusals."""
_RETRY_S = [milliseconds / 1000 for milliseconds in range(250, 750, 5)]
"""Spread, so that those who were refused together do not come back together; few enough to be kept ready."""


_GROWN_MESSAGES = 4 * SLOW_MAX
"""While one arrives, the process may grow by so many of the largest: eight calls and eight streams, each twice."""
_GROWN_BYTES_LEAST = 128 * 1024 * 1024
"""By so much in any case: something else may take it."""
_EXEMPT = nullcontext()
_reserved: ContextVar[_Reservation | None] = ContextVar("clickstream_request_reserved", default=None)


def _nothing(_limit: str) -> None:
    """Count no refusals."""


class Limiter:
    """Unary calls and streams are counted apart, so that neither starves the other.

    Health is never refused for load: only those of its requests that are large or do not arrive are given up.

    Stands innermost: what is refused for other reasons takes no room. `refused` is called with what there was too much
    of, such as CALLS.
    """

    def __init__(self, bounds: Bounds | None = None, *, refused: Callable[[str], None] = _nothing) -> None:
        self._bounds = bounds or Bounds()
        self._count_refusal = refused
        self._load = Load(self._bounds.calls_max, self._bounds.queue_s_max)
        self._streams = 0
        self._call_bytes, self._stream_bytes = _BytePool(), _BytePool()
        grown_bytes_max = max(_GROWN_BYTES_LEAST, _GROWN_MESSAGES * self._bounds.message_bytes_max)
        self._receiving, self._receiving_of_streams = Receiving(grown_bytes_max), Receiving(grown_bytes_max)
        # Strangers may ask for health: a request that is stuck is given up even if nobody else waits.
        self._receiving_of_health = Receiving(_GROWN_BYTES_LEAST, stopping=True)
        self._ready = cycle([_overloaded(retry_after_s) for retry_after_s in sample(_RETRY_S, len(_RETRY_S))])

    def prepared(self, method: str, handler: Handler) -> Handler:
        """Have requests read inside of `around`: gRPC itself would read the only one of a call before that."""
        if handler.request_streaming:
            return handler
        health = method.startswith(HEALTH)
        if handler.response_streaming:
            receiving = self._receiving_of_health if health else self._receiving_of_streams
            # A watcher's name is short, and must not be refused for what readers hold.
            stream = self._reading_stream(handler.unary_stream, receiving, None if health else self._stream_bytes)
            return handler._replace(request_streaming=True, unary_stream=None, stream_stream=stream)
        answer = self._reading(handler.unary_unary, self._receiving_of_health if health else self._receiving)
        return handler._replace(request_streaming=True, unary_unary=None, stream_unary=answer)

    def _reading(
        self, behaviour: Callable[[Any, Context], Coroutine[Any, Any, Any]], receiving: Receiving
    ) -> Callable[..., Awaitable[Any]]:
        async def answer(_: AsyncIterator[Any], context: Context) -> Any:
            request = await self._request(context, receiving)
            return await behaviour(request, context)

        return answer

    def _reading_stream(
        self, behaviour: Callable[[Any, Context], Any], receiving: Receiving, counted: _BytePool | None
    ) -> Callable[..., AsyncIterator[Any]]:
        async def stream(_: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            held = _Reservation(counted or _BytePool())
            _reserved.set(held)
            try:
                request = await self._request(context, receiving)
                async with aclosing(behaviour(request, context)) as answers:
                    async for answer in answers:
                        yield answer
            finally:
                held.release()

        return stream

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Admit the call, or raise. Of unary calls, `full` is to be asked before."""
        if call.method.startswith(HEALTH):
            return _EXEMPT
        if call.streams:
            if self._streams >= self._bounds.streams_max:
                raise self._refusal(STREAMS)
            return _Stream(self)
        return _Admitted(self, call.method)

    def full(self, method: str) -> bool:
        """Whether this unary call is to be refused."""
        return not (method.startswith(HEALTH) or self._load.has_room)

    def refused(self) -> Overloaded:
        """It is refused: the error for it, which is not to be raised, since others get the same one."""
        self._load.refused()
        self._count_refusal(CALLS)
        return next(self._ready)

    def stream(self, change: int) -> None:
        """So many streams more."""
        self._streams += change

    def begin(self) -> tuple[Begun, _Reservation]:
        """An admitted call begins; return what `end` needs to know, and what its request is to be counted in."""
        return self._load.begin(), _Reservation(self._call_bytes)

    def end(self, admitted: _Admitted, *, answered: bool) -> None:
        """It has ended."""
        admitted.held.release()
        self._load.end(admitted.method, admitted.begun, answered=answered)

    def stop(self) -> None:
        """The server stops, and waits for calls that run: not for requests that do not come."""
        self._receiving.stopping = self._receiving_of_streams.stopping = True

    def admit(self, size: int) -> Overloaded | None:
        """The request of the call that runs now has come: None if it may be parsed, else what to answer.

        One alone may be of any size. Of calls that send many, messages are not counted: what reads them bounds them.
        """
        held = _reserved.get()
        if held is None or held.take(size, self._bounds.request_bytes_max):
            return None
        return self._refusal(BYTES)

    async def _request(self, context: Context, receiving: Receiving) -> Any:
        """The request of a call that has one. Read without its iterator, which would have to be closed each time."""
        try:
            request = await receiving.read(context)
        except TimeoutError:
            raise self._refusal(RECEIVING) from None
        if request is grpc.aio.EOF:
            raise InvalidField.at("", "the call must carry a request")
        if isinstance(request, ClickstreamError):  # it could not be read
            raise request
        return request

    def _refusal(self, limit: str) -> Overloaded:
        self._count_refusal(limit)
        return _overloaded(choice(_RETRY_S))


def _overloaded(retry_after_s: float) -> Overloaded:
    return Overloaded("the server has as much to do as it can take on; try again later", retry_after_s=retry_after_s)


class _BytePool:
    """How many bytes the requests that are held now have."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0


class _Reservation:
    """What one call's request has of a pool."""

    __slots__ = ("_pool", "_size")

    def __init__(self, pool: _BytePool) -> None:
        self._pool = pool
        self._size = 0

    def take(self, size: int, most: int) -> bool:
        """Take so many bytes, unless the pool would pass `most`; alone, any number. Return whether it did."""
        if self._pool.held and self._pool.held + size > most:
            return False
        self._size += size
        self._pool.held += size
        return True

    def release(self) -> None:
        self._pool.held -= self._size
        self._size = 0


class _Admitted:
    """Around a unary call. `held`: what its request is counted in."""

    __slots__ = ("_limiter", "begun", "held", "method")

    def __init__(self, limiter: Limiter, method: str) -> None:
        self._limiter = limiter
        self.method = method

    def __enter__(self) -> None:
        self.begun, self.held = self._limiter.begin()
        _reserved.set(self.held)  # for the rest of this task, which is the call

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
