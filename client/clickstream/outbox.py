"""What a client's stream has to send: kept until it is acknowledged, and sent again over each new connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Generic, TypeVar

from clickstream.calling import written
from clickstream.resume import leaves_at

M = TypeVar("M")
MoreComes = Callable[[], Awaitable[bool]]
"""Waits, holding `changed`, until it may have changed; False: nothing will be put in any more."""


class Outbox(Generic[M]):
    """Messages in their order. `changed` guards them, and tells of what is put in and of what is acknowledged.

    `left`: the latest connection has ended its requests since its deadline comes, not since there are no more.
    """

    def __init__(self, deadline_s: float) -> None:
        self.changed = asyncio.Condition()
        self.unacked: deque[M] = deque()
        self.left = False
        self._deadline_s = deadline_s
        self._leave_at = 0.0
        self._unsent = 0
        self._connection = 0

    def put(self, message: M) -> None:
        """Add a message. The caller holds `changed`."""
        self.unacked.append(message)
        self._unsent += 1
        self.changed.notify_all()

    @asynccontextmanager
    async def connected(self, method: Callable[..., Any], requests: Callable[[int], Any]) -> AsyncIterator[Any]:
        """One connection's call. `requests` makes what it sends, given the connection's number, for `messages`."""
        self._unsent = len(self.unacked)
        self._leave_at, self.left = leaves_at(self._deadline_s), False
        call = written(method, requests(self._connection), self._deadline_s)
        try:
            yield call
        finally:
            call.cancel()
            self._connection += 1  # what this one's requests ask for from here on they do not get

    async def messages(self, connection: int, more_comes: MoreComes) -> AsyncGenerator[M, None]:
        """What is not acknowledged, then what is put in, for as long as this is the connection."""
        while (message := await self._next(connection, more_comes)) is not None:
            yield message

    async def _next(self, connection: int, more_comes: MoreComes) -> M | None:
        async with self.changed:
            while not self._unsent and connection == self._connection:
                if not await more_comes():
                    return None
            if connection != self._connection:
                return None
            if monotonic() > self._leave_at:
                self.left = True
                return None
            message = self.unacked[-self._unsent]
            self._unsent -= 1
            return message
