"""Calls that come are looked at before those that run go on: so that refusing them is quick when there is much to do.

gRPC hands over one call at a time, every few turns of the event loop. With many calls running, each turn is long, and
those that come wait in gRPC, unseen, for longer than the ones that were admitted take. So when it is crowded, calls go
on one after the other, and only after whatever has come was admitted or refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from time import perf_counter
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_WORK_S = 0.001
"""So long calls may go on before those that come are looked at again."""
_QUIET_S = 0.000_15
"""If none has come for so long, there is none: gRPC needs about half of that to hand over the next."""
_LOOK_S_MAX = 0.005
"""However many come, calls go on after this time."""


class Turns:
    """Who goes on when. `crowded`: whether calls are to wait for their turns now."""

    def __init__(self, crowded: Callable[[], bool]) -> None:
        self._crowded = crowded
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._giving: asyncio.Task[None] | None = None
        self._came_at = 0.0

    def came(self) -> None:
        """A call has come."""
        self._came_at = perf_counter()

    @coroutine
    def run(self, call: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """The call's result. Whenever it has waited for something, it waits for its turn as well, if it is crowded."""
        step = partial(call.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                yield awaited
                if self._crowded():
                    yield from self._turn()
            except BaseException as error:  # it is cancelled, most likely: that is for the call to deal with
                step = partial(call.throw, error)
            else:
                step = partial(call.send, None)

    def _turn(self) -> asyncio.Future[None]:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._giving is None or self._giving.done():
            self._giving = asyncio.create_task(self._give())
        return turn

    async def _give(self) -> None:
        while self._waiting:
            await self._look()
            until = perf_counter() + _WORK_S
            while self._waiting and perf_counter() < until:
                turn = self._waiting.popleft()
                if not turn.done():  # its call may have been cancelled
                    turn.set_result(None)
                    await asyncio.sleep(0)

    async def _look(self) -> None:
        """Let gRPC hand over what has come."""
        now = began = self._came_at = perf_counter()
        # A timer instead would be a millisecond late at best.
        while now - self._came_at < _QUIET_S and now - began < _LOOK_S_MAX:
            await asyncio.sleep(0)
            now = perf_counter()
