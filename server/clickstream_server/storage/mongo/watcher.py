"""One change stream for all readers that follow a batch.

Every commit on a batch writes the batch's document, so one change stream over the batches tells every reader when to
look again. It only wakes them: what they read, they read from the database, so a lost stream loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from time import time
from typing import Any

from pymongo.errors import PyMongoError

from clickstream_server.message_dao import MessagePage
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX, MAJORITY_READ, end_if_cancelled, maybe_await

_REOPEN_S = 0.5
_PROJECTION = {"documentKey": 1, "updateDescription.updatedFields.session_counter": 1}


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a reader is behind the end of its batch: how many numbers, and for how long that has been so."""

    numbers: int
    seconds: float


class Changed:
    """Tells one reader that its batch has changed since `clear`, and knows how far the reader is."""

    def __init__(self, number: int) -> None:
        self._event = asyncio.Event()
        self._number = number
        self._behind_since: float | None = None

    def clear(self) -> None:
        self._event.clear()

    def set(self) -> None:
        self._event.set()
        if self._behind_since is None:
            self._behind_since = time()

    def is_set(self) -> bool:
        """Whether it has changed since `clear`."""
        return self._event.is_set()

    def took(self, page: MessagePage, *, complete: bool) -> None:
        """The reader's client has taken this page; `complete`: there was no more when it was read."""
        self._number = page.last_number
        if complete:
            self._behind_since = time() if self.is_set() else None
        elif page.sessions:  # what comes next was registered after this
            self._behind_since = page.sessions[-1].registered_at / 1_000_000

    def lag(self, counter: int) -> Lag:
        """How far the reader is behind, if the batch has come to this number."""
        numbers = max(0, counter - self._number)
        since = self._behind_since
        return Lag(numbers, max(0.0, time() - since) if numbers and since is not None else 0.0)

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a change; False if none came within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
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
        self._counters: dict[str, int] = {}
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Timeout | None = None
        self.wakes = 0
        """How often readers were woken so far. What is read while this stays the same has seen all that woke them."""

    def learn(self, batch_id: str, counter: int) -> None:
        """The batch has come to this number, as somebody has seen."""
        if batch_id in self._readers:
            self._counters[batch_id] = max(counter, self._counters.get(batch_id, 0))

    def lags(self) -> list[Lag]:
        """How far each reader that follows is behind."""
        return [
            changed.lag(self._counters.get(batch_id, 0))
            for batch_id, readers in self._readers.items()
            for changed in readers
        ]

    @asynccontextmanager
    async def watch(self, batch_id: str | None, after_number: int = 0) -> AsyncIterator[Changed]:
        """What tells of changes of this batch, for as long as the context lasts (None: of nothing)."""
        changed = Changed(after_number)
        if batch_id is None:
            yield changed
            return
        if self._watching is None or self._watching.done():
            # An empty context: the call that happened to come first ends, and this goes on.
            self._watching = asyncio.create_task(self._watch(), context=Context())
        self._readers[batch_id].add(changed)
        try:
            yield changed
        finally:
            self._readers[batch_id].discard(changed)
            if not self._readers[batch_id]:
                del self._readers[batch_id]
                self._counters.pop(batch_id, None)

    def reopen(self) -> None:
        """Open another change stream: a reader found by itself what it should have been told of.

        A stream stays with its member, even when that has lost the others and is no longer the primary.
        """
        if self._listening is not None and self._listening.when() is None:
            self._listening.reschedule(0)

    async def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching], timeout=timeout_s)

    async def _watch(self) -> None:
        while True:
            try:
                await self._pass_on_changes_until_reopened()
            except PyMongoError:
                await asyncio.sleep(_REOPEN_S)  # the database is away: the readers learn that by reading

    async def _pass_on_changes_until_reopened(self) -> None:
        """Until `reopen` is called, or the stream fails."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._listening:
                    await self._pass_on_changes()
        finally:
            self._listening = None

    async def _pass_on_changes(self) -> None:
        async with await maybe_await(self._batches.watch([{"$project": _PROJECTION}])) as stream:
            await stream.try_next()  # opens the stream
            self._wake(*self._readers)  # whatever happened before that
            async for change in stream:
                end_if_cancelled()
                if "documentKey" in change and (counter := _counter(change)):
                    self.learn(change["documentKey"]["_id"], counter)
                # Without one the collection was dropped or replaced, and the stream ends; another is opened then.
                self._wake(*([change["documentKey"]["_id"]] if "documentKey" in change else self._readers))

    def _wake(self, *batch_ids: str) -> None:
        self.wakes += 1
        for batch_id in batch_ids:
            for changed in self._readers.get(batch_id, ()):
                changed.set()


def _counter(change: dict[str, Any]) -> int:
    """The number that the batch has come to by this change; 0 where it tells of none."""
    counter: int = change.get("updateDescription", {}).get("updatedFields", {}).get("session_counter", 0)
    return counter
