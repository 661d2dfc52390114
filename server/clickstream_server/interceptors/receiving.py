"""Requests of calls that send one are received a few at a time, so that large ones at once do not fill the memory."""

from __future__ import annotations

import asyncio
from contextvars import Context as EmptyContext
from typing import Any

from clickstream_server.interceptors.call import Context

RECEIVING_MAX = 16
"""So many requests are received at a time. Each may take twice a message's size of memory; before it is received, a
window's. Small ones come within a turn of the event loop, so that thousands a second do."""
SLOW_MAX = 8
"""So many of them may be large, or slow to come, while others wait; none while many others do."""
_PLACE_S_MAX = 1.0
"""So long may one wait until it is received."""
_ROUND_S = 0.05
"""So often is looked at what does not come. After that come..."""
_TURNS = 8
"""... so many turns of the event loop, in which gRPC can hand over what has come while the loop was busy."""
_SLOW_ROUNDS, _SLOW_ROUNDS_CROWDED = 3, 1
"""A request that is still missing after so many rounds is large or slow. By rounds and not by time, since it may be the
server that is slow: then rounds last longer."""
_STUCK_ROUNDS = 100
"""One that is missing after so many gives way to others."""


class Receiving:
    """The requests that are coming in. While others wait for a place, some that are large or slow are given up.

    Once it is `stopping`, all that are stuck are.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._places = asyncio.Semaphore(RECEIVING_MAX)
        self._waiting = 0
        self._since: dict[asyncio.Timeout, int] = {}
        """The round in which each began, the oldest first."""
        self._round = 0
        self._watching: asyncio.Task[None] | None = None

    async def read(self, context: Context) -> Any:
        """The request. Raises TimeoutError if it was given up, or found no place."""
        if self._places.locked():
            await self._place()
        else:
            await self._places.acquire()
        try:
            async with asyncio.timeout(None) as patience:
                self._since[patience] = self._round
                if self._watching is None:
                    self._watching = asyncio.create_task(self._watch(), context=EmptyContext())
                try:
                    return await context.read()
                finally:
                    self._since.pop(patience, None)
        finally:
            self._places.release()

    async def _place(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(_PLACE_S_MAX):
                await self._places.acquire()
        finally:
            self._waiting -= 1

    async def _watch(self) -> None:
        while self._since:
            await asyncio.sleep(_ROUND_S)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            self._round += 1
            self._give_up()
        self._watching = None

    def _give_up(self) -> None:
        crowded = self._waiting > RECEIVING_MAX
        rounds = _SLOW_ROUNDS_CROWDED if crowded else _SLOW_ROUNDS
        slow = [patience for patience, since in self._since.items() if self._round - since > rounds]
        stuck = [patience for patience in slow if self._round - self._since[patience] > _STUCK_ROUNDS]
        surplus = len(stuck) if self.stopping else 0
        if self._waiting:
            surplus = max(surplus, len(slow) - (0 if crowded else SLOW_MAX))
        # Those that are stuck first, so that nobody can keep the others out; then those that came last.
        for patience in [*stuck, *reversed(slow[len(stuck) :])][:surplus]:
            del self._since[patience]
            patience.reschedule(asyncio.get_running_loop().time())
