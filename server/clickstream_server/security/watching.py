"""Looks at files again and again while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from clickstream_server.waiting import in_thread

LOOK_EVERY_S = 1.0
_SAY_AFTER_S = 10.0
_log = logging.getLogger(__name__)


@asynccontextmanager
async def watched(looks: Sequence[Callable[[], None]], then: Callable[[], None]) -> AsyncIterator[None]:
    """In the context, once a second: do each look, and `then` after it.

    Each by itself, in a thread that nobody waits for: a file may be slow to read, or hang with its disk, and neither
    the other files nor a stop may wait for it.
    """
    tasks = [asyncio.create_task(_watch(look, then)) for look in looks]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(look: Callable[[], None], then: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await _look(look)
            then()
        except Exception:
            _log.exception("looking at files failed; trying again")


async def _look(look: Callable[[], None]) -> None:
    looking = asyncio.ensure_future(in_thread(look))
    try:
        done, _ = await asyncio.wait([looking], timeout=_SAY_AFTER_S)
        if not done:
            _log.error("a file of certificates or tokens has not been read for %g s; what it had counts", _SAY_AFTER_S)
        await looking
    finally:
        looking.cancel()
