"""What a call that failed means: the domain's error for what gRPC says."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from clickstream.access import hint
from clickstream.errors import Cancelled, ClickstreamError, MessageTooLarge, Overloaded, Unavailable, from_status

_DETAILS_KEY = "grpc-status-details-bin"
_TOO_LARGE = "Received message larger than max"
"""What gRPC itself says, on either side, of a message of more than twice the limit, with no reason of ours."""
_REQUEST_ID_KEY = "x-request-id"


def failure_of(error: grpc.aio.AioRpcError) -> ClickstreamError:
    """The domain's error for what a call ended with."""
    metadata: dict[str, Any] = dict(tuple(error.trailing_metadata() or ()))
    if error.code() is grpc.StatusCode.CANCELLED:
        # Not by us: then grpc.aio raises a CancelledError.
        return Unavailable("the server stopped before it answered")
    said = error.details() or error.code().name
    if _DETAILS_KEY not in metadata and (known := hint(said)):
        said = f"{known} ({said})"
    failure: ClickstreamError
    if _DETAILS_KEY not in metadata and _TOO_LARGE in said:
        failure = MessageTooLarge(f"message_bytes_max must be the same for the client and the server ({said})")
    else:
        failure = from_status(error.code(), said, metadata.get(_DETAILS_KEY))
    failure.request_id = metadata.get(_REQUEST_ID_KEY, "")
    return failure


def is_task_cancelled() -> bool:
    """Whether the task that calls was cancelled, so that its CancelledError goes on as it is.

    If not, only the call was, by closing the client: that is a Cancelled.
    """
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())


def client_closed() -> Cancelled:
    """What a call raises whose client is closed, before it or meanwhile."""
    return Cancelled("the client is closed")


def lost_connection(error: grpc.aio.AioRpcError | asyncio.CancelledError, *, closed: bool) -> ClickstreamError:
    """What became of a stream's connection. Raises what is no loss: its task was cancelled, or the client `closed`."""
    if isinstance(error, grpc.aio.AioRpcError):
        failure = failure_of(error)
    else:
        if is_task_cancelled():
            try:
                raise error
            finally:
                del error  # its traceback has this frame, which held it until the garbage collector comes
        if closed:
            raise client_closed() from error
        # gRPC gives a call up when it ends its requests just as the call ends, and does not tell how that ended.
        failure = Unavailable("the connection broke")
    failure.__cause__ = error
    return failure


def is_cut(failure: ClickstreamError) -> bool:
    """A connection cut in the middle of a message; an error of the service would carry its reason."""
    return failure.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and not failure.error_id


def is_momentary(failure: ClickstreamError) -> bool:
    """Whether the server had too much to do, and says when to come back."""
    return isinstance(failure, Overloaded) and failure.retry_after_s is not None
