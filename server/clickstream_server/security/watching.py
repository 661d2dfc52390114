"""Looks at files again and again while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)


@asynccontextmanager
async def watched(looks: Sequence[Callable[[], None]], then: Callable[[], None]) -> AsyncIterator[None]:
    """In the context, once a second: do every look, in a thread, since a file may be slow to read; then `then`."""
    task = asyncio.create_task(_watch(looks, then))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _watch(looks: Sequence[Callable[[], None]], then: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            for look in looks:
                await asyncio.to_thread(look)
            then()
        except Exception:
            _log.exception("looking at files failed; trying again")
