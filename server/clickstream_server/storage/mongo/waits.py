"""How PyMongo Async waits for a connection, on Python 3.11.

It uses `asyncio.wait_for`, which until Python 3.12 waits in a task of its own. Who is cancelled twice, or at the moment
when the time is over, leaves that task behind, as it takes the lock of the pool again: nobody gives that back, and
nobody gets a connection any more, for as long as the process lives. Each of our steps has two bounds that end at nearly
the same moment (see `errors.storage_call`), so a database that hung for that long was enough.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import pymongo.lock


def wait_without_tasks() -> None:
    """Have all clients of this process wait as they do from Python 3.12 on. Twice is once."""
    if sys.version_info < (3, 12):
        pymongo.lock.wait_for = _wait_for  # type: ignore[attr-defined,assignment]  # asyncio's, as it imported it


async def _wait_for(work: Coroutine[Any, Any, bool], timeout: float | None) -> bool:  # noqa: ASYNC109  # its signature
    async with asyncio.timeout(timeout):
        return await work
