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
"""While a request comes, the process may grow by so many of the largest: eight calls and eight streams, each twice."""
_GROWN_BYTES_LEAST = 128 * 1024 * 1024
"""By so much in any case: it may be something else that takes it."""
_EXEMPT = nullcontext()
_held: ContextVar[_Held | None] = ContextVar("clickstream_request_held", default=None)


def _nothing(_limit: str) -> None:
    """Count no refusals."""


class Limiter:
    """Unary calls and streams are counted apart, so that neither starves the other.

    Health is never refused for what else there is to do: of it, only requests that are large or do not come are.

    Stands innermost: what is refused for other reasons takes no room. `refused` is called with what there was too much
    of.
    """

    def __init__(self, bounds: Bounds | None = None, *, refused: Callable[[str], None] = _nothing) -> None:
        self._bounds = bounds or Bounds()
        self._tell = refused
        self._load = Load(self._bounds.calls_max, self._bounds.queue_s_max)
        self._streams = 0
        self._call_bytes, self._stream_bytes = _Bytes(), _Bytes()
        grown_bytes_max = max(_GROWN_BYTES_LEAST, _GROWN_MESSAGES * self._bounds.message_bytes_max)
        self._receiving, self._receiving_of_streams = Receiving(grown_bytes_max), Receiving(grown_bytes_max)
        # Who asks for health may be a stranger: who is stuck is sent away even if nobody else waits.
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
        self, behaviour: Callable[[Any, Context], Any], receiving: Receiving, counted: _Bytes | None
    ) -> Callable[..., AsyncIterator[Any]]:
        async def stream(_: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            held = _Held(counted or _Bytes())
            _held.set(held)
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
        self._tell(CALLS)
        return next(self._ready)

    def stream(self, change: int) -> None:
        """So many streams more."""
        self._streams += change

    def begin(self) -> tuple[Begun, _Held]:
        """An admitted call begins; return what `end` is to be told, and what its request is to be counted in."""
        return self._load.begin(), _Held(self._call_bytes)

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
        held = _held.get()
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
        self._tell(limit)
        return _overloaded(choice(_RETRY_S))


def _overloaded(retry_after_s: float) -> Overloaded:
    return Overloaded("the server has as much to do as it can take on; try again later", retry_after_s=retry_after_s)


class _Bytes:
    """How many bytes requests have that are held now."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0


class _Held:
    """What one call's request has of them."""

    __slots__ = ("_all", "_size")

    def __init__(self, every: _Bytes) -> None:
        self._all = every
        self._size = 0

    def take(self, size: int, most: int) -> bool:
        """Whether there is room for so many."""
        if self._all.held and self._all.held + size > most:
            return False
        self._size += size
        self._all.held += size
        return True

    def release(self) -> None:
        self._all.held -= self._size
        self._size = 0


class _Admitted:
    """Around a unary call. `held`: what its request is counted in."""

    __slots__ = ("_limiter", "begun", "held", "method")

    def __init__(self, limiter: Limiter, method: str) -> None:
        self._limiter = limiter
        self.method = method

    def __enter__(self) -> None:
        self.begun, self.held = self._limiter.begin()
        _held.set(self.held)  # for the rest of this task, which is the call

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
