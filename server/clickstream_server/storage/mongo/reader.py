"""Reading a batch: page by page, each page one snapshot of the batch, its sessions and their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable
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
from clickstream_server.storage.mongo.messages import session_message
from clickstream_server.storage.mongo.paging import (
    FIRST_PAGE_SESSIONS,
    PAGE_SESSIONS,
    read_page,
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
        self._shared: dict[Hashable, asyncio.Task[tuple[MessagePage, bool]]] = {}

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
        async with self._watcher.watch(batch_id if query.follow else None, query.after_number) as changed:
            after, left, page_sessions = query.after_number, query.limit or None, FIRST_PAGE_SESSIONS
            read, first, told = self._page, query.follow, True
            while True:
                changed.clear()
                wanted = page_sessions if left is None else min(page_sessions, left)
                page, complete = await read(batch_id, after, wanted, query)
                if page.sessions and not told:
                    self._watcher.is_deaf()
                after, page_sessions = page.last_number, PAGE_SESSIONS
                left = None if left is None else left - len(page.sessions)
                ended = left == 0 or page.sealed or (complete and not query.follow)
                if page.sessions or ended or first:  # who waits learns at once that there is somebody to wait for
                    yield page
                changed.took(page, complete=complete)
                first = False
                if ended:
                    return
                told = not complete or await changed.wait(SIGN_OF_LIFE_S)
                read = self._shared_page if complete and told else self._page
                if not told:
                    yield replace(page, sessions=())

    async def _shared_page(self, batch_id: str, after: int, wanted: int, query: BatchQuery) -> tuple[MessagePage, bool]:
        """As `_page`, once for all readers who were woken together at the same place."""
        key = (self._watcher.wakes, batch_id, after, wanted, query.events_limit, query.exclude_irrelevant)
        read = self._shared.get(key)
        if read is None:
            # An empty context: the deadline of the reader that happened to come first is not that of the others.
            read = asyncio.create_task(self._page(batch_id, after, wanted, query), context=Context())
            self._shared[key] = read
            read.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(read)

    def _forget(self, key: Hashable, read: asyncio.Task[tuple[MessagePage, bool]]) -> None:
        del self._shared[key]
        if not read.cancelled():
            read.exception()  # asyncio complains of one that nobody took, as when all readers are gone

    async def _page(self, batch_id: str, after: int, wanted: int, query: BatchQuery) -> tuple[MessagePage, bool]:
        """The next page, and whether it reached the end of what the batch holds now."""
        async with (
            storage_call(self._timeout_s),
            await settle(self._client.start_session(snapshot=True)) as session,
        ):
            batch = await self._batches.get(batch_id, session=session)
            if batch is None:
                raise BatchNotFound.by_id(batch_id)
            self._watcher.learn(batch_id, batch.session_counter)
            if after >= batch.session_counter:
                return MessagePage(sessions=(), last_number=after, sealed=batch.sealed), True
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
        sessions = tuple(session_message(read.document, read.events.documents, read.events.count) for read in found)
        last_number = batch.session_counter if complete else sessions[-1].session_number
        return MessagePage(sessions=sessions, last_number=last_number, sealed=complete and batch.sealed), complete
