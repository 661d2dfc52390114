"""One watch of the database for all readers that follow a batch.

Every commit on a batch writes the batch's document, so one change stream over the batches tells every reader when to
look again. It only wakes them: what they read, they read from the database, so a lost stream loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pymongo.errors import PyMongoError

from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.driver import MAJORITY_READ, settle

_REOPEN_S = 0.5


class Changed:
    """Tells one reader that its batch has changed since `clear`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def clear(self) -> None:
        self._event.clear()

    def set(self) -> None:
        self._event.set()

    async def wait(self, most_s: float) -> bool:
        """Wait for a change; False if none came within `most_s` seconds."""
        try:
            async with asyncio.timeout(most_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class BatchWatcher:
    """Watches the batches from the first reader on, until it is closed."""

    def __init__(self, database: Any) -> None:
        # MongoDB has change streams with this read concern only.
        self._batches = database[indexes.BATCHES].with_options(read_concern=MAJORITY_READ)
        self._readers: defaultdict[str, set[Changed]] = defaultdict(set)
        self._watching: asyncio.Task[None] | None = None
        self.wakes = 0
        """How often readers were woken so far. What is read while this stays the same has seen all that woke them."""

    @asynccontextmanager
    async def watch(self, batch_id: str | None) -> AsyncIterator[Changed]:
        """What tells of changes of this batch, for as long as the context lasts (None: of nothing)."""
        changed = Changed()
        if batch_id is None:
            yield changed
            return
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        self._readers[batch_id].add(changed)
        try:
            yield changed
        finally:
            self._readers[batch_id].discard(changed)
            if not self._readers[batch_id]:
                del self._readers[batch_id]

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        while True:
            try:
                await self._pass_on_changes()
            except PyMongoError:
                await asyncio.sleep(_REOPEN_S)  # the database is away: the readers learn that by reading

    async def _pass_on_changes(self) -> None:
        async with await settle(self._batches.watch([{"$project": {"documentKey": 1}}])) as stream:
            await stream.try_next()  # opens the stream
            self._wake(*self._readers)  # whatever happened before that
            async for change in stream:
                # Without one the collection was dropped or replaced, and the stream ends; another is opened then.
                self._wake(*([change["documentKey"]["_id"]] if "documentKey" in change else self._readers))

    def _wake(self, *batch_ids: str) -> None:
        self.wakes += 1
        for batch_id in batch_ids:
            for changed in self._readers.get(batch_id, ()):
                changed.set()
