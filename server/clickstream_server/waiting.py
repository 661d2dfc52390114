"""Reads and writes that may wait for somebody else, in a program that Ctrl-C ends all the same."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TypeVar, cast

T = TypeVar("T")

_NAME = "clickstream-waiting"


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a read or write that waits, which it would not while asyncio has the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def in_thread(work: Callable[[], T]) -> T:
    """Do what may wait for a slow reader or writer in a thread, so that what was read before goes out meanwhile.

    Not one of the event loop's threads: these would be waited for after Ctrl-C.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as raised:
            result, error = None, raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    Thread(target=run, name=_NAME, daemon=True).start()
    return await done


def exit_past_threads(code: int) -> None:
    """End the process now if a thread of `in_thread` or of a driver is left; return otherwise.

    An interpreter that ends in order stops the one wherever it is, which in compiled code means an abort, and waits for
    the other, which may wait for a database that does not answer.
    """
    others = set(threading.enumerate()) - {threading.current_thread()}
    if any(thread.name == _NAME or not thread.daemon for thread in others):
        for stream in filter(None, (sys.stdout, sys.stderr)):  # either may have been closed from the start
            with suppress(OSError):
                stream.flush()
        os._exit(code)
