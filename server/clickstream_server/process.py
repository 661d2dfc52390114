"""What each process of the server does around serving: it goes easy on memory, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from clickstream_server.config import Settings

_M_ARENA_MAX = -8
"""See mallopt(3)."""
_ARENAS = 2


def show_where_it_stands() -> None:
    """Have Python print where each thread is if the process crashes, or gets SIGUSR1, also while its event loop hangs.

    Files, functions and lines go to the standard error, and nothing of what they work on.
    """
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        faulthandler.register(signal.SIGUSR1)


def use_memory_well() -> None:
    """Set up Python's and the system's memory for serving, before there are threads."""
    _collect_garbage_less_often()
    _share_arenas()


def _collect_garbage_less_often() -> None:
    """Look less often through the many objects that a large request makes and keeps.

    At CPython's own pace that takes a quarter of an import's time (`make bench`: server CPU per item).
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _share_arenas() -> None:
    """Let all threads take memory from the same two places, unless MALLOC_ARENA_MAX says otherwise.

    glibc gives nearly every thread (of the driver there are five a core) a place of its own, each of which keeps what
    was freed in it. An import of 80 MB made a server 24 to 40 MiB larger, with two places 1 to 17, and was as quick.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


@asynccontextmanager
async def ending(
    in_order: Callable[[], Awaitable[object]], at_once: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Await `in_order` at the end of the context, or `at_once` if the task is cancelled before that is done.

    Being cancelled ends one wait only: all that is left to be ended on the way out has to know that nobody waits.
    """
    try:
        try:
            yield
        except asyncio.CancelledError:
            raise
        except BaseException:
            await in_order()
            raise
        else:
            await in_order()
    except asyncio.CancelledError:
        await at_once()
        raise


def hangup() -> tuple[signal.Signals, ...]:
    """The signal of a terminal that has gone: a stop like SIGTERM, unless whoever started us ignores it (nohup)."""
    signals = () if sys.platform == "win32" else (signal.SIGHUP,)
    return tuple(number for number in signals if signal.getsignal(number) is not signal.SIG_IGN)


class Serving:
    """Serves in a task until told to stop; `until` is that of `app` or of `workers.supervisor`."""

    def __init__(
        self,
        until: Callable[[asyncio.Event, Settings, Callable[[Any], None]], Coroutine[Any, Any, None]],
        settings: Settings,
        announce: Callable[[Any], None],
    ) -> None:
        self._stop = asyncio.Event()
        self._serves = False
        self._announce = announce
        self._task = asyncio.ensure_future(until(self._stop, settings, self._announced))

    def _announced(self, running: Any) -> None:
        self._serves = True
        self._announce(running)

    def stop(self) -> None:
        """In order; a start that is under way is given up. Again is once."""
        if not self._stop.is_set() and not self._serves:
            self._task.cancel()
        self._stop.set()

    def stop_at_once(self) -> None:
        self._task.cancel()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def ended(self) -> bool:
        """Wait until it has ended; whether it was let finish. Raises StartFailure."""
        try:
            await self._task
        except asyncio.CancelledError:
            return False
        return True
