"""Every error reaches the client in the contract's form; nothing else of an exception does."""

from __future__ import annotations

import asyncio
import logging
import traceback
from functools import lru_cache
from typing import NoReturn

import grpc
import grpc.aio

from clickstream.errors import ClickstreamError, InternalError, ShuttingDown, to_status
from clickstream_server.interceptors.call import Call
from clickstream_server.interceptors.trailers import Trailers, trailers

_log = logging.getLogger(__name__)


async def answer_with(call: Call, error: BaseException) -> None:
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
