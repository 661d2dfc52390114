"""Requests of calls that send one: only a few may be large or slow to arrive, so that they do not fill the memory."""

from __future__ import annotations

import asyncio
import os
from contextvars import Context as EmptyContext
from pathlib import Path
from typing import Any, NamedTuple

from clickstream_server.interceptors.call import Context

SLOW_MAX = 8
"""So many requests at a time may be large or slow. Each may take twice a message's size of memory."""
_ROUND_S = 0.05
"""A round is so long, and `_TURNS` turns of the event loop; then those that have not arrived are looked at."""
_TURNS = 8
"""In these gRPC can hand over what arrived while the loop was busy."""
_LARGE_ROUNDS = 1
"""A request that takes more rounds is large, if the process has grown by `_GROWN_BYTES` meanwhile. By rounds and not by
time, since it may be the server that is slow: then rounds last longer. With 3, sixty messages of 7 and 14 MiB took 231
to 429 MiB, with 1 at most 286."""
_GROWN_BYTES = 32 * 1024 * 1024
"""If it has not, it may be gRPC's threads that wait, for a busy processor: for up to half a second nothing arrived of
thousands of small requests."""
_SLOW_ROUNDS = 20
"""One that takes more rounds is slow."""
_STUCK_ROUNDS = 100
"""One that takes more rounds is stuck, and gives way to others."""
_STATM = Path("/proc/self/statm")
"""See proc(5). Other systems than Linux have none, and every request is taken to be large."""


class _Begun(NamedTuple):
    """When a request began: in which round, and how large the process was then."""

    round: int
    memory_bytes: int | None


class Receiving:
    """The requests that are being received. Of those that are large or slow, all but SLOW_MAX are given up.

    So is each of them during which the process grew by `grown_bytes_max`, however few they are: gRPC looks at its bound
    for messages only when all of one is there, and eight requests that went on for five seconds took 2.9 GB. Once it is
    `stopping`, all that are stuck are given up, too.
    """

    def __init__(self, grown_bytes_max: int, *, stopping: bool = False) -> None:
        self.stopping = stopping
        self._grown_bytes_max = grown_bytes_max
        self._coming: dict[asyncio.Timeout, _Begun] = {}
        """The oldest first."""
        self._now = _Begun(0, None)
        self._watching: asyncio.Task[None] | None = None

    async def read(self, context: Context) -> Any:
        """The request. Raises TimeoutError if it was given up."""
        async with asyncio.timeout(None) as patience:
            if self._watching is None:
                self._now = _Begun(self._now.round, _memory_bytes())
                self._watching = asyncio.create_task(self._watch(), context=EmptyContext())
            self._coming[patience] = self._now
            try:
                return await context.read()
            finally:
                self._coming.pop(patience, None)

    async def _watch(self) -> None:
        while self._coming:
            await asyncio.sleep(_ROUND_S)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            self._now = _Begun(self._now.round + 1, _memory_bytes())
            self._give_up()
        self._watching = None

    def _give_up(self) -> None:
        slow = [patience for patience, begun in self._coming.items() if self._is_slow(begun)]
        given_up = [patience for patience in slow if self._is_too_much(self._coming[patience])]
        others = [patience for patience in slow if not self._is_too_much(self._coming[patience])]
        stuck = [patience for patience in others if self._is_stuck(self._coming[patience])]
        # Those that are stuck first, so that nobody can keep the others out; then those that came last.
        given_up += [*stuck, *reversed(others[len(stuck) :])][: max(0, len(others) - SLOW_MAX)]
        for patience in given_up:
            del self._coming[patience]
            patience.reschedule(asyncio.get_running_loop().time())

    def _rounds_of(self, begun: _Begun) -> int:
        return self._now.round - begun.round

    def _is_slow(self, begun: _Begun) -> bool:
        grown = self._grown_bytes(begun)
        large = grown is None or grown > _GROWN_BYTES
        return self._rounds_of(begun) > (_LARGE_ROUNDS if large else _SLOW_ROUNDS)

    def _is_too_much(self, begun: _Begun) -> bool:
        """Of one that is slow."""
        return (self._grown_bytes(begun) or 0) > self._grown_bytes_max or (self.stopping and self._is_stuck(begun))

    def _is_stuck(self, begun: _Begun) -> bool:
        return self._rounds_of(begun) > _STUCK_ROUNDS

    def _grown_bytes(self, begun: _Begun) -> int | None:
        """By how much the process has grown since; None where it cannot be told."""
        before, now = begun.memory_bytes, self._now.memory_bytes
        return None if before is None or now is None else now - before


def _memory_bytes() -> int | None:
    """The memory that this process has in RAM now, None where it cannot be told. Takes 10 µs."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
