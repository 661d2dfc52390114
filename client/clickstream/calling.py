"""How the client calls: once, and again where that helps."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Callable
from time import monotonic
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from clickstream import forks
from clickstream.call_errors import client_closed, failure_of, is_momentary, is_task_cancelled
from clickstream.errors import DeadlineExceeded, MessageTooLarge, Overloaded, ResourceExhausted, Unavailable
from clickstream.throttling import Throttle
from clickstream.tracing import trace_options

DEADLINE_S_MAX = 1_000_000_000
"""Some 30 years. Of more, `inf` too, gRPC makes a deadline that is over."""
_HELD_BACK_S = 0.25, 0.75
"""After so long, what was held back may be tried again: as long as a server has those wait that it refuses."""


def check_deadlines(**deadlines_s: float) -> None:
    """Raise ValueError for what is no deadline."""
    for name, seconds in deadlines_s.items():
        if not isinstance(seconds, int | float) or not 0 < seconds <= DEADLINE_S_MAX:
            raise ValueError(f"{name} must be more than 0 seconds, and {DEADLINE_S_MAX:,} at most, not {seconds}")


def started(method: Callable[..., Any], request: Any, timeout_s: float) -> Any:
    """The call, under way. Raises Cancelled if the client is closed."""
    forks.check()
    try:
        return method(request, timeout=timeout_s, **trace_options())
    except grpc.aio.UsageError as error:
        raise client_closed() from error


def written(method: Callable[..., Any], requests: AsyncIterable[Any], timeout_s: float) -> Any:
    """The call of a stream that is written to, under way; as `started`. Once it has ended, nothing is written any more.

    gRPC would go on: what it says of a message that it could not send any more takes the place of the status that the
    server has ended the call with, and it would wait for ever for requests that do not come.
    """
    writing: set[asyncio.Task[Any] | None] = set()

    async def noted() -> AsyncIterator[Any]:
        writing.add(asyncio.current_task())  # gRPC's
        async for request in requests:
            yield request

    def end(_: Any) -> None:
        for task in writing:
            if task is not None:
                task.cancel()

    call = started(method, noted(), timeout_s)
    call.add_done_callback(end)
    return call


def check_size(request: Message, message_bytes_max: int) -> None:
    """Raise MessageTooLarge for a request that the service would refuse for its size."""
    if (size := request.ByteSize()) > message_bytes_max:
        raise MessageTooLarge(f"a message must have {message_bytes_max} bytes at most, not {size}")


class Caller:
    """Makes unary calls, and retries those that the server refuses for its load."""

    def __init__(self, *, deadline_s: float, message_bytes_max: int, closed: Callable[[], bool]) -> None:
        self._deadline_s = deadline_s
        self._message_bytes_max = message_bytes_max
        self._closed = closed
        self._throttles: defaultdict[Callable[..., Any], Throttle] = defaultdict(Throttle)
        """By method, since a server may refuse one and not another: large requests, say."""

    async def answer(self, method: Callable[..., Any], request: Message) -> Any:
        """The answer. Raises the domain's error for what the call ended with, within the deadline."""
        check_size(request, self._message_bytes_max)
        throttle = self._throttles[method]
        until = monotonic() + self._deadline_s
        wait_s = 0.0
        refusal: Overloaded | None = None
        try:
            while throttle.admits():
                try:
                    answer = await started(method, request, until - monotonic())
                except grpc.aio.AioRpcError as error:
                    refusal = _refusal_of(error, throttle)
                    wait_s = max(2 * wait_s, refusal.retry_after_s or 0.0)
                    if not throttle.retries or monotonic() + 1.5 * wait_s >= until:
                        raise refusal from error
                except asyncio.CancelledError as error:
                    if is_task_cancelled():
                        raise
                    raise client_closed() from error
                else:
                    throttle.accepted()
                    return answer
                await asyncio.sleep(random.uniform(wait_s, 1.5 * wait_s))
            raise refusal or self._held_back()
        finally:
            del refusal  # its traceback has this frame, which held it until the garbage collector comes

    def _held_back(self) -> Exception:
        forks.check()
        if self._closed():
            return client_closed()
        return Overloaded(
            "the server refuses many calls for its load, so this one was not sent; try again later",
            retry_after_s=random.uniform(*_HELD_BACK_S),
        )


def _refusal_of(error: grpc.aio.AioRpcError, throttle: Throttle) -> Overloaded:
    """How the server refused a call for its load; raises any other error. Both are counted by the throttle."""
    failure = failure_of(error)
    if isinstance(failure, Overloaded) and is_momentary(failure):
        throttle.refused()
        return failure
    if failure.request_id and not isinstance(failure, Unavailable | DeadlineExceeded | ResourceExhausted):
        throttle.accepted()  # whatever is wrong with it, the server dealt with it
    try:
        raise failure from error
    finally:
        del failure  # as above
