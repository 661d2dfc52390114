"""Every error reaches the client in the contract's form; nothing else of an exception does."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from clickstream.errors import ClickstreamError, InternalError, MessageTooLarge, ShuttingDown, to_status
from clickstream_server.call_record import Stage, enter
from clickstream_server.interceptors.call import HEALTH, HEALTH_BYTES_MAX, Call, Handler
from clickstream_server.interceptors.readable import readable_parts
from clickstream_server.interceptors.trailers import Trailers, trailers
from clickstream_server.limits import Limits

_log = logging.getLogger(__name__)


class Errors:
    """Turns exceptions into statuses with details, and requests that cannot be parsed into clear errors."""

    def __init__(self, limits: Limits, admit: Callable[[int], ClickstreamError | None]) -> None:
        self._limits = limits
        self._health_limits = replace(limits, message_bytes_max=HEALTH_BYTES_MAX)
        self._admit = admit

    def prepared(self, method: str, handler: Handler) -> Handler:
        """The handler, reading its requests so that one that cannot be read is answered by what it is."""
        read = handler.request_deserializer
        message = getattr(read, "__self__", None)
        if not (isinstance(message, type) and issubclass(message, Message)):
            return handler
        limits = self._health_limits if method.startswith(HEALTH) else self._limits
        handler = handler._replace(request_deserializer=_reader(message, limits, self._admit))
        if not handler.request_streaming:
            return handler
        field = "stream_stream" if handler.response_streaming else "stream_unary"
        behaviour = getattr(handler, field)
        return handler._replace(**{field: lambda requests, context: behaviour(_readable(requests), context)})

    async def answer(self, call: Call, error: BaseException) -> None:
        """End the call with the status for this error. Raises what gRPC is to see; returns if its client is gone."""
        if isinstance(error, ClickstreamError):
            await _abort(call, error)
        elif isinstance(error, asyncio.CancelledError) and not call.context.cancelled():
            # Cancelled by us, at the end of the drain. Without a status the client would hang.
            await _abort(call, ShuttingDown("the server is stopping", retry_after_s=1.0))
        elif isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            raise error
        elif call.streams and isinstance(error, grpc.aio.InternalError):
            call.record.gone = True  # the client went away while an answer was being sent
        else:
            internal = internal_error(error, call.record.request_id)
            _forget(error)
            await _abort(call, internal)


def internal_error(error: Exception, error_id: str) -> InternalError:
    """What to answer for an exception that nobody expected; what it was goes into the log, under this id."""
    # Where and of what kind, not the text: it may hold a payload, and queries are personal data.
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("internal error %s: %s in\n%s", error_id, getattr(error, "log_text", type(error).__name__), place)
    return InternalError(f"an internal error; its id in the log is {error_id}", error_id=error_id)


def _pushback(remaining_s: float | None, retry_after_s: float | None) -> str:
    """When gRPC's own retry is to try again, in milliseconds; -1: not at all, for it would only run out of time, or
    waiting does not help (None).
    """
    if retry_after_s is None or (remaining_s is not None and remaining_s < 2 * retry_after_s):
        return "-1"
    return str(round(retry_after_s * 1000))


def _reader(
    message: type[Message], limits: Limits, admit: Callable[[int], ClickstreamError | None]
) -> Callable[[bytes], Any]:
    """Parse a request, or return the error to answer with: an exception here would end as INTERNAL."""
    bytes_max = limits.message_bytes_max

    def read(data: bytes) -> Any:
        enter(Stage.VALIDATE)
        if len(data) > bytes_max:
            return MessageTooLarge(f"a message must have {bytes_max} bytes at most, not {len(data)}")
        if (refusal := admit(len(data))) is not None:
            return refusal
        try:
            return message.FromString(data)
        except DecodeError:
            return readable_parts(message, data, limits.events_per_call_max)

    return read


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, up to the first that could not be read."""
    async for request in requests:
        if isinstance(request, ClickstreamError):
            raise request
        yield request


def _forget(error: BaseException | None) -> None:
    """Have the error hold nothing of its call.

    gRPC makes a cycle of a call that is aborted, through what it raises for that, whose context is this error. Until
    the garbage collector finds it, which may take long, it would hold the request and all that was made of it.
    (`traceback.clear_frames` would do the same, and end coroutines of others that still run.)
    """
    while error is not None:
        known, error = error, error.__cause__ or error.__context__
        known.__traceback__ = known.__cause__ = known.__context__ = None


def _status(error: ClickstreamError) -> tuple[str, bytes]:
    """What is said of it, and its details."""
    status = to_status(error)
    return status.message, status.SerializeToString()


def _is_plain(error: ClickstreamError) -> bool:
    """Whether it says nothing that is its call's own, as errors do by which calls are refused."""
    return error.retry_after_s is not None and not (error.violations or error.resource_name or error.error_id)


@lru_cache(maxsize=128)
def _refusal(kind: type[ClickstreamError], message: str, retry_after_s: float) -> tuple[str, bytes]:
    """As `_status`, for plain errors: made once, since refusing must be cheap (15 µs less)."""
    return _status(kind(message, retry_after_s=retry_after_s))


def end_with(call: Call, error: ClickstreamError) -> None:
    """Have the call end with this error once its handler returns: without an exception, since refusing must be cheap.

    For handlers that answer with a stream: gRPC would send an empty answer of others beside the status.
    """
    message, metadata = _ending(call, error)
    call.context.set_code(error.code)
    call.context.set_details(message)
    call.context.set_trailing_metadata(metadata)


def _ending(call: Call, error: ClickstreamError) -> tuple[str, Trailers]:
    """What the call ends with beside the code: what is said of it, and the trailing metadata."""
    if _is_plain(error):
        message, details = _refusal(type(error), error.message, error.retry_after_s)  # type: ignore[arg-type]  # a class is hashable
    else:
        message, details = _status(error)
    call.record.reason = error.reason
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", details)]
    if error.retry_after_s is not None or error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        metadata.append(("grpc-retry-pushback-ms", _pushback(call.context.time_remaining(), error.retry_after_s)))
    return message, (*metadata, *trailers(call.record, timed=not call.streams))


async def _abort(call: Call, error: ClickstreamError) -> NoReturn:
    _forget(error)
    message, metadata = _ending(call, error)
    # What is passed to abort takes the place of what was set before.
    try:
        await call.context.abort(error.code, message, metadata)
    except grpc.aio.InternalError:
        call.record.gone = True  # nobody takes the answer; gRPC would log that with its traceback
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")
