"""What a broken call means, and when to resume it."""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from clickstream.access import hint
from clickstream.errors import (
    Cancelled,
    ClickstreamError,
    DeadlineExceeded,
    InvalidCredentials,
    MessageTooLarge,
    Overloaded,
    Unavailable,
    from_status,
)

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


def _is_cut(failure: ClickstreamError) -> bool:
    """A connection cut in the middle of a message; an error of the service would carry its reason."""
    return failure.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and not failure.error_id


def is_momentary(failure: ClickstreamError) -> bool:
    """Whether the server had too much to do, and says when to come back."""
    return isinstance(failure, Overloaded) and failure.retry_after_s is not None


def leaves_at(deadline_s: float) -> float:
    """When to leave a connection that is written to, on the monotonic clock: in good time before its deadline.

    What is in flight when a connection breaks is sent again, and then counts as a duplicate. Who leaves first has an
    answer to everything.
    """
    return monotonic() + 0.9 * deadline_s


class Patience:
    """How long a broken stream is resumed: until nothing has come for `timeout_s` seconds since it broke.

    Time in which nothing was due, or nobody took what came, does not count.

    `token_changes`: a stream that ends because its token is no longer valid is resumed with the current one, so that
    tokens can be replaced without a gap.
    """

    TOKENS_TRIED = 3

    def __init__(self, timeout_s: float, *, token_changes: bool = False) -> None:
        self._timeout_s = timeout_s
        self._tokens_left = self._tokens = self.TOKENS_TRIED if token_changes else 0
        self._came = False
        self._until: float | None = None
        self._tries = 0

    def renew(self) -> None:
        """Something came."""
        self._came = True
        self._tokens_left = self._tokens
        self._until = None
        self._tries = 0

    async def pause(self, failure: ClickstreamError, *, awaited: bool) -> None:
        """Wait before the next connection of a stream that is written to. Raises the failure if there is to be none.

        `awaited`: whether anything was to come.
        """
        if not self.allows(failure, awaited=awaited):
            try:
                raise self._given_up(failure)
            finally:
                del failure  # its traceback has this frame, which held it until the garbage collector comes
        await self.wait(failure)

    def allows(self, failure: ClickstreamError, *, awaited: bool = True) -> bool:
        """Whether to connect again. A call that never brought anything has been retried by gRPC already, except where
        the server had too much to do at that moment.
        """
        if isinstance(failure, InvalidCredentials):
            self._tokens_left -= 1
            return self._came and self._tokens_left >= 0
        if self._until is None or not awaited:
            self._until = monotonic() + self._timeout_s
        if monotonic() >= self._until:
            return False
        broken = isinstance(failure, Unavailable | DeadlineExceeded) or _is_cut(failure)
        return is_momentary(failure) or (broken and self._came)

    @staticmethod
    def _given_up(failure: ClickstreamError) -> ClickstreamError:
        """What to raise after the last try."""
        if not _is_cut(failure):
            return failure
        unavailable = Unavailable(f"the connection broke: {failure.message}")
        unavailable.__cause__ = failure
        return unavailable

    async def wait(self, failure: ClickstreamError) -> None:
        backoff = backoff_s(self._tries)
        self._tries += 1
        await asyncio.sleep(max(failure.retry_after_s or 0.0, random.uniform(backoff / 2, backoff)))


def backoff_s(tries: int) -> float:
    """The longest pause after so many tries. There may be any number: some streams are never given up."""
    return min(2.0, 0.1 * (1 << min(tries, 5)))
