"""What becomes of each call: counted, logged and traced, whatever part of the server ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol

import grpc
import grpc.aio

from clickstream_server.call_record import CallRecord
from clickstream_server.interceptors.call import Call, Handler
from clickstream_server.message_dao import EncodedAnswer

_LATE_S = 0.25
"""A client that goes away so shortly before the deadline has met it: its clock began before the server's."""
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


class Observe:
    """Sees the status that a call ends with: it stands outside of all that may end one."""

    def __init__(self, log: Log | None = None, counts: Counts | None = None, tracer: Tracer | None = None) -> None:
        self._log = log
        self._counts = counts
        self._tracer = tracer

    def prepared(self, method: str, handler: Handler) -> Handler:
        """The handler, with the messages of its streams counted."""
        return handler if self._counts is None else _counting(self._counts, method, handler)

    def unknown(self) -> None:
        """A method was called that there is not."""
        if self._counts is not None:
            self._counts.unknown()

    def around(self, call: Call) -> _Observed:
        return _Observed(self, call)

    def began(self, call: Call) -> MethodCounts | None:
        """The call begins; return what is counted of its method."""
        counts = None
        if self._counts is not None:
            counts = self._counts.of(call.method, streams=call.streams)
            counts.in_flight.inc()
        if self._tracer is not None:
            self._tracer.began(call, call.record)
        return counts

    def refused(self, call: Call) -> None:
        """The call has ended as it began: there was too much to do."""
        self.ended(call, self.began(call), "RESOURCE_EXHAUSTED")

    def ended(self, call: Call, counts: MethodCounts | None, code: str) -> None:
        """The call has ended with this status."""
        duration_s = perf_counter() - call.record.began
        if counts is not None:
            counts.ended(code, call.record.reason, duration_s)
        if self._log is not None:
            self._log.ended(call.method, code, duration_s, call.record, streams=call.streams)
        if self._tracer is not None:
            self._tracer.ended(code, call.record)


class _Observed:
    """Around one call."""

    __slots__ = ("_by", "_call", "_counts")

    def __init__(self, by: Observe, call: Call) -> None:
        self._by = by
        self._call = call

    def __enter__(self) -> None:
        self._counts = self._by.began(self._call)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        record = self._call.record
        if isinstance(error, asyncio.CancelledError | grpc.aio.InternalError):  # the second: nobody takes the answer
            record.gone = True
        if record.gone:
            record.reason = ""
        self._by.ended(self._call, self._counts, _code(self._call, error))


def _code(call: Call, error: BaseException | None) -> str:
    """The name of the status that the client got, or has if it went away."""
    if call.record.gone:
        remaining_s = call.context.time_remaining()
        return "DEADLINE_EXCEEDED" if remaining_s is not None and remaining_s <= _LATE_S else "CANCELLED"
    code = call.context.code()
    if code is None:
        return "OK" if error is None else "UNKNOWN"
    return _CODES[code]


def _counting(counts: Counts, method: str, handler: Handler) -> Handler:
    """The handler, with the messages of its streams counted as they are read and written."""
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
        if isinstance(message, EncodedAnswer):
            counts.sessions.inc(message.sessions)
        return write(message)

    return counted
