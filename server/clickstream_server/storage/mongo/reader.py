"""Reading a batch: page by page, each page one snapshot of the batch, its sessions and their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Hashable
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any

from pymongo import ASCENDING

from clickstream.errors import BatchNotFound
from clickstream_server.message_dao import BatchQuery, MessagePage
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.batches import BatchStore
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import settle
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.messages import session_answer
from clickstream_server.storage.mongo.paging import (
    FIRST_PAGE_SESSIONS,
    PAGE_SESSIONS,
    FoundSession,
    in_turns,
    read_page,
    reading_ahead,
)
from clickstream_server.storage.mongo.watcher import BatchWatcher, Lag

SIGN_OF_LIFE_S = 5.0


class BatchReader:
    """Reads batches. Nothing appears behind a reader, because a page never mixes two moments of the database."""

    def __init__(
        self,
        client: Any,
        database: Any,
        batches: BatchStore,
        events: EventStore,
        *,
        events_bytes_max: int,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._sessions = database[indexes.SESSIONS]
        self._batches = batches
        self._events = events
        self._events_bytes_max = events_bytes_max
        self._timeout_s = timeout_s
        self._watcher = BatchWatcher(database)
        self._shared: dict[Hashable, asyncio.Task[_Page]] = {}

    def lags(self) -> list[Lag]:
        """How far each reader that follows is behind."""
        return self._watcher.lags()

    async def close(self) -> None:
        await self._watcher.close()
        if reading := list(self._shared.values()):
            for read in reading:
                read.cancel()
            await asyncio.wait(reading)

    async def pages(self, query: BatchQuery) -> AsyncGenerator[MessagePage, None]:
        """Yield pages until the batch is read, or, following, until it is sealed."""
        batch_id = query.batch_id
        if not batch_id:
            async with storage_call(self._timeout_s):
                batch_id = (await self._batches.collecting()).batch_id
        async with (
            self._watcher.watch(batch_id if query.follow else None, query.after_number) as changed,
            reading_ahead() as start,
        ):
            after, left, first, told = query.after_number, query.limit or None, query.follow, True
            reading: Awaitable[_Page] = self._page(batch_id, after, _wanted(FIRST_PAGE_SESSIONS, left), query)
            while True:
                page = await reading
                if page.count and not told:
                    self._watcher.is_deaf()
                    told = True  # of the pages after this one nobody would have been told
                after, left = page.last_number, None if left is None else left - page.count
                wanted = _wanted(PAGE_SESSIONS, left)
                ended = left == 0 or page.sealed or (page.complete and not query.follow)
                if not page.complete and not ended:
                    changed.clear()
                    reading = start(self._page(batch_id, after, wanted, query))
                message = await page.message()
                if page.count or ended or first:  # who waits learns at once that there is somebody to wait for
                    yield message
                changed.took(message, complete=page.complete)
                first = False
                if ended:
                    return
                if not page.complete:
                    continue
                told = await changed.wait(SIGN_OF_LIFE_S)
                if not told:
                    yield replace(message, sessions=())
                changed.clear()
                read = self._shared_page if told else self._page
                reading = read(batch_id, after, wanted, query)

    async def _shared_page(self, batch_id: str, after: int, wanted: int, query: BatchQuery) -> _Page:
        """As `_page`, once for all readers who were woken together at the same place."""
        key = (self._watcher.wakes, batch_id, after, wanted, query.events_limit, query.exclude_irrelevant)
        read = self._shared.get(key)
        if read is None:
            # An empty context: the deadline of the reader that happened to come first is not that of the others.
            read = asyncio.create_task(self._encoded_page(batch_id, after, wanted, query), context=Context())
            self._shared[key] = read
            read.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(read)

    async def _encoded_page(self, batch_id: str, after: int, wanted: int, query: BatchQuery) -> _Page:
        page = await self._page(batch_id, after, wanted, query)
        await page.message()
        return page

    def _forget(self, key: Hashable, read: asyncio.Task[_Page]) -> None:
        del self._shared[key]
        if not read.cancelled():
            read.exception()  # asyncio complains of one that nobody took, as when all readers are gone

    async def _page(self, batch_id: str, after: int, wanted: int, query: BatchQuery) -> _Page:
        """The next page."""
        async with (
            storage_call(self._timeout_s),
            await settle(self._client.start_session(snapshot=True)) as session,
        ):
            batch = await self._batches.get(batch_id, session=session)
            if batch is None:
                raise BatchNotFound.by_id(batch_id)
            self._watcher.learn(batch_id, batch.session_counter)
            if after >= batch.session_counter:
                return _Page([], last_number=after, complete=True, sealed=batch.sealed)
            where: Document = {"batch_id": batch_id, "session_number": {"$gt": after}}
            if query.exclude_irrelevant:
                where["is_irrelevant"] = {"$ne": True}
            cursor = (
                self._sessions.find_raw_batches(where, session=session)
                .sort("session_number", ASCENDING)
                .limit(wanted + 1)
            )
            read_events = partial(
                self._events.of_sessions, limit=query.events_limit, bytes_max=self._events_bytes_max, session=session
            )
            found, complete = await read_page(cursor, wanted, read_events)
        last_number = batch.session_counter if complete else found[-1].document["session_number"]
        return _Page(found, last_number=last_number, complete=complete, sealed=complete and batch.sealed)


class _Page:
    """A page as it was read. `complete`: it reached the end of what the batch held. May be shared by many readers."""

    def __init__(self, found: list[FoundSession], *, last_number: int, complete: bool, sealed: bool) -> None:
        self.count = len(found)
        self.last_number = last_number
        self.complete = complete
        self.sealed = sealed
        self._found = found
        self._message: MessagePage | None = None

    async def message(self) -> MessagePage:
        """The page as it is sent; encoded once, and then the documents, which are several times as large, are gone."""
        if self._message is None:
            sessions = [answer async for answer in in_turns(self._found, session_answer)]
            self._message = MessagePage(tuple(sessions), self.last_number, self.sealed)
            self._found = []
        return self._message


def _wanted(most: int, left: int | None) -> int:
    return most if left is None else min(most, left)
