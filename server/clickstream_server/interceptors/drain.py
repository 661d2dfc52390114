"""The caller's deadline, an orderly beginning and an orderly end.

Calls are refused until the database is there, and again at the stop; streams then end so that clients resume elsewhere.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from copy import copy
from time import monotonic
from types import TracebackType
from typing import Any

from clickstream.errors import ClickstreamError, ShuttingDown, StorageUnavailable
from clickstream_server.deadlines import begin_deadline
from clickstream_server.interceptors.call import HEALTH, Call

_RETRY_AFTER_S = 1.0
_MOMENT_S = 0.02


class Drain:
    """Knows the calls that run; refuses all until `admit`, and others once it drains."""

    def __init__(self, *, admits: bool = False) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusal: ClickstreamError | None = StorageUnavailable(
            "the server has just started and waits for its database", retry_after_s=_RETRY_AFTER_S
        )
        self._refused = 0
        if admits:
            self.admit()

    @property
    def draining(self) -> bool:
        """Whether new calls are refused for good."""
        return isinstance(self._refusal, ShuttingDown)

    def admit(self) -> None:
        """From now on calls are taken."""
        self._refusal = None

    def drain(self) -> None:
        """Refuse new calls and end the streams; unary calls run on."""
        self._refusal = ShuttingDown(
            "the server is stopping; call another one or try again", retry_after_s=_RETRY_AFTER_S
        )
        for stream in self._streams:
            stream.cancel()

    async def told(self, timeout_s: float) -> None:
        """Wait until those who call have been told to wait: no call was refused for a moment."""
        give_up_at = monotonic() + timeout_s
        refused = -1
        while refused != self._refused and monotonic() < give_up_at:
            refused = self._refused
            await asyncio.sleep(_MOMENT_S)

    async def done(self) -> None:
        """Wait until no call runs: all that is left of them is to be sent."""
        await self._idle.wait()

    def cut_off(self) -> tuple[int, int]:
        """End whatever still runs; return how many unary calls and how many streams that is."""
        for task in (*self._calls, *self._streams):
            task.cancel()
        return len(self._calls), len(self._streams)

    def check(self, call: Call) -> None:
        """Raise if the call is not taken."""
        if self._refusal is not None and not self._is_answered(call):
            self._refused += 1
            raise copy(self._refusal)  # each call its own, with a traceback of its own

    def _is_answered(self, call: Call) -> bool:
        # Health goes on answering, so that a probe learns of it instead of guessing from a refusal. But who watches
        # again once his stream was ended would hold up the stop: refused, he knows as much, and waits before the next.
        return call.method.startswith(HEALTH) and not (call.streams and self.draining)

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Take note of the call, or raise."""
        self.check(call)
        begin_deadline(call.context.time_remaining())
        return _Running(self._streams if call.streams else self._calls, self)

    def began(self) -> None:
        """A call runs."""
        self._idle.clear()

    def ended(self) -> None:
        """One runs no more."""
        if not self._calls and not self._streams:
            self._idle.set()


class _Running:
    """Around one call. `like_it`: the tasks of all such calls that run."""

    __slots__ = ("_drain", "_like_it", "_task")

    def __init__(self, like_it: set[asyncio.Task[Any]], drain: Drain) -> None:
        self._like_it = like_it
        self._drain = drain

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each call in a task"
        self._task = task
        self._like_it.add(task)
        self._drain.began()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._like_it.discard(self._task)
        self._drain.ended()
