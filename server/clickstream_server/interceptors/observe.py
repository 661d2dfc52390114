"""What becomes of each call: counted, logged and traced, whatever part of the server ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol

import grpc
import grpc.aio

from clickstream_server.call_record import CallRecord, call_record
from clickstream_server.interceptors.wrapping import AroundInterceptor, Call, Handler

_LATE_S = 0.25
"""Who goes away so shortly before the deadline had none left: a client's clock began before the server's."""
_CODES = {code: code.name for code in grpc.StatusCode}


class MethodCounts(Protocol):
    """What is counted of one RPC. `streams`: it answers with a stream; `receives`: it takes one."""

    streams: bool
    receives: bool
    in_flight: Any
    sent: Any
    received: Any
    sessions: Any

    def ended(self, code: str, reason: str, duration_s: float) -> None: ...


class Counts(Protocol):
    """What is counted of calls."""

    def of(self, method: str, *, streams: bool) -> MethodCounts: ...
    def unknown(self) -> None: ...


class Log(Protocol):
    """Where calls are logged."""

    def ended(self, method: str, code: str, duration_s: float, record: CallRecord, *, streams: bool) -> None: ...


class Tracer(Protocol):
    """Who traces calls. `record.trace` is theirs."""

    def began(self, call: Call, record: CallRecord) -> None: ...
    def ended(self, code: str, record: CallRecord) -> None: ...


class ObserveInterceptor(AroundInterceptor):
    """Sees the status that a call ends with: it stands outside of all that may end one."""

    def __init__(self, log: Log, counts: Counts | None = None, tracer: Tracer | None = None) -> None:
        self._log = log
        self._counts = counts
        self._tracer = tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        async def counting(details: grpc.HandlerCallDetails) -> Handler:
            handler = await continuation(details)
            return handler if self._counts is None else _counting(self._counts, details.method, handler)

        return await super().intercept_service(counting, handler_call_details)

    def around(self, call: Call) -> _Observed:
        return _Observed(self, call)

    def began(self, call: Call, record: CallRecord) -> MethodCounts | None:
        """The call begins; return what is counted of its method."""
        counts = None
        if self._counts is not None:
            counts = self._counts.of(call.method, streams=call.streams)
            counts.in_flight.inc()
        if self._tracer is not None:
            self._tracer.began(call, record)
        return counts

    def ended(self, call: Call, record: CallRecord, counts: MethodCounts | None, code: str) -> None:
        """The call has ended with this status."""
        duration_s = perf_counter() - record.began
        if counts is not None:
            counts.ended(code, record.reason, duration_s)
        self._log.ended(call.method, code, duration_s, record, streams=call.streams)
        if self._tracer is not None:
            self._tracer.ended(code, record)


class _Observed:
    """Around one call. A class, since a generator as context costs three times as much, and every call pays it."""

    __slots__ = ("_by", "_call", "_counts", "_record")

    def __init__(self, by: ObserveInterceptor, call: Call) -> None:
        self._by = by
        self._call = call

    async def __aenter__(self) -> None:
        record = call_record()
        assert record is not None, "the interceptor that begins calls stands outside of this one"
        self._record = record
        self._counts = self._by.began(self._call, record)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError | grpc.aio.InternalError):  # the second: nobody takes the answer
            self._record.gone = True
        if self._record.gone:
            self._record.reason = ""
        self._by.ended(self._call, self._record, self._counts, _code(self._call, self._record, error))


def _code(call: Call, record: CallRecord, error: BaseException | None) -> str:
    """The name of the status that the client got, or has if it went away."""
    if record.gone:
        remaining_s = call.context.time_remaining()
        return "DEADLINE_EXCEEDED" if remaining_s is not None and remaining_s <= _LATE_S else "CANCELLED"
    code = call.context.code()
    if code is None:
        return "OK" if error is None else "UNKNOWN"
    return _CODES[code]


def _counting(counts: Counts, method: str, handler: Handler) -> Handler:
    """The handler, with the messages of its streams counted as they are read and written."""
    if handler is None:
        counts.unknown()
        return None
    found = counts.of(method, streams=handler.response_streaming)
    if not found.streams:
        return handler
    if found.receives:
        handler = handler._replace(request_deserializer=_read(handler.request_deserializer, found))
    return handler._replace(response_serializer=_written(handler.response_serializer, found))


def _read(read: Callable[[bytes], Any], counts: MethodCounts) -> Callable[[bytes], Any]:
    def counted(data: bytes) -> Any:
        counts.received.inc()
        return read(data)

    return counted


def _written(write: Callable[[Any], bytes], counts: MethodCounts) -> Callable[[Any], bytes]:
    def counted(message: Any) -> bytes:
        counts.sent.inc()
        if sessions := len(getattr(message, "sessions", ())):
            counts.sessions.inc(sessions)
        return write(message)

    return counted
