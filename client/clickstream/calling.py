"""How the client calls: once, and again where that helps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from clickstream import forks
from clickstream.errors import Cancelled, DeadlineExceeded, MessageTooLarge, Overloaded, Unavailable
from clickstream.pacing import HELD_BACK_S, Budget, Throttle
from clickstream.resume import cancelled_as, failure_of, is_momentary
from clickstream.tracing import trace_options


def started(method: Callable[..., Any], request: Any, timeout_s: float) -> Any:
    """The call, under way. Raises Cancelled if the client is closed."""
    forks.check()
    try:
        return method(request, timeout=timeout_s, **trace_options())
    except grpc.aio.UsageError as error:
        raise Cancelled("the client is closed") from error


class Caller:
    """Makes calls that answer once, and makes those again that the server refuses for its load."""

    def __init__(self, *, deadline_s: float, message_bytes_max: int) -> None:
        self._deadline_s = deadline_s
        self._message_bytes_max = message_bytes_max
        self._throttle = Throttle()
        self._budget = Budget()

    async def answer(self, method: Callable[..., Any], request: Message) -> Any:
        """The answer. Raises the domain's error for what the call ended with, within the deadline."""
        if (size := request.ByteSize()) > self._message_bytes_max:
            raise MessageTooLarge(f"a message must have {self._message_bytes_max} bytes at most, not {size}")
        until = monotonic() + self._deadline_s
        wait_s = 0.0
        while True:
            try:
                answer = await self._attempt(method, request, until - monotonic())
            except Overloaded as failure:
                wait_s = max(2 * wait_s, failure.retry_after_s or 0.0)
                if not is_momentary(failure) or monotonic() + 1.5 * wait_s >= until or not self._budget.spend():
                    raise
            else:
                self._budget.earn()
                return answer
            await asyncio.sleep(random.uniform(wait_s, 1.5 * wait_s))

    async def _attempt(self, method: Callable[..., Any], request: Message, timeout_s: float) -> Any:
        if not self._throttle.admits():
            raise Overloaded(
                "the server refuses many calls for its load, so this one was not sent; try again later",
                retry_after_s=HELD_BACK_S,
            )
        try:
            answer = await started(method, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
            if is_momentary(failure):
                self._throttle.refused()
            elif not isinstance(failure, Unavailable | DeadlineExceeded):
                self._throttle.accepted()
            raise failure from error
        except asyncio.CancelledError as error:
            raise cancelled_as(error) from error
        self._throttle.accepted()
        return answer
