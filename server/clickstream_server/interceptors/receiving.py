"""Requests of calls that send one: only a few may be large or slow to come, so that they do not fill the memory."""

from __future__ import annotations

import asyncio
from contextvars import Context as EmptyContext
from typing import Any

from clickstream_server.interceptors.call import Context

SLOW_MAX = 8
"""So many requests at a time may be large, or slow to come. Each may take twice a message's size of memory."""
_ROUND_S = 0.05
"""So often is looked at what does not come. After that come..."""
_TURNS = 8
"""... so many turns of the event loop, in which gRPC can hand over what has come while the loop was busy."""
_SLOW_ROUNDS = 1
"""A request that is missing for more rounds is large or slow. By rounds and not by time, since it may be the server
that is slow: then rounds last longer. With 3, sixty messages of 7 and 14 MiB took 231 to 429 MiB, with 1 at most 239.
"""
_STUCK_ROUNDS = 100
"""One that is missing after so many gives way to others."""


class Receiving:
    """The requests that are coming in. Past SLOW_MAX that are large or slow, some are given up.

    Once it is `stopping`, all that are stuck are.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._since: dict[asyncio.Timeout, int] = {}
        """The round in which each began, the oldest first."""
        self._round = 0
        self._watching: asyncio.Task[None] | None = None

    async def read(self, context: Context) -> Any:
        """The request. Raises TimeoutError if it was given up."""
        async with asyncio.timeout(None) as patience:
            self._since[patience] = self._round
            if self._watching is None:
                self._watching = asyncio.create_task(self._watch(), context=EmptyContext())
            try:
                return await context.read()
            finally:
                self._since.pop(patience, None)

    async def _watch(self) -> None:
        while self._since:
            await asyncio.sleep(_ROUND_S)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            self._round += 1
            self._give_up()
        self._watching = None

    def _give_up(self) -> None:
        slow = [patience for patience, since in self._since.items() if self._round - since > _SLOW_ROUNDS]
        stuck = [patience for patience in slow if self._round - self._since[patience] > _STUCK_ROUNDS]
        surplus = max(0, len(stuck) if self.stopping else 0, len(slow) - SLOW_MAX)
        # Those that are stuck first, so that nobody can keep the others out; then those that came last.
        for patience in [*stuck, *reversed(slow[len(stuck) :])][:surplus]:
            del self._since[patience]
            patience.reschedule(asyncio.get_running_loop().time())
