"""Reading a batch: page by page, each page one snapshot of the batch, its sessions and their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from contextvars import Context
from dataclasses import replace
from functools import partial
from operator import call
from typing import Any

from pymongo import ASCENDING

from clickstream.errors import BatchNotFound
from clickstream_server.message_dao import BatchQuery, MessagePage
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.batches import BatchStore
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX, settle
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.messages import session_answer
from clickstream_server.storage.mongo.paging import (
    FIRST_PAGE_SESSIONS,
    PAGE_SESSIONS,
    FoundSession,
    in_turns,
    read_sessions,
    with_events,
)
from clickstream_server.storage.mongo.pipeline import in_order
from clickstream_server.storage.mongo.watcher import BatchWatcher, Changed, Lag

SIGN_OF_LIFE_S = 5.0
_READ_AT_ONCE = 2
"""So many pages of a reader are read or encoded at a time."""


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

    async def close(self, most_s: float = CLOSE_S_MAX) -> None:
        await self._watcher.close(most_s)
        if reading := list(self._shared.values()):
            for read in reading:
                read.cancel()
            await asyncio.wait(reading, timeout=most_s)

    async def pages(self, query: BatchQuery) -> AsyncGenerator[MessagePage, None]:
        """Yield pages until the batch is read, or, following, until it is sealed."""
        if not query.batch_id:
            async with storage_call(self._timeout_s):
                query = replace(query, batch_id=(await self._batches.collecting()).batch_id)
        async with self._watcher.watch(query.batch_id if query.follow else None, query.after_number) as changed:
            page, first = await self._page(query, FIRST_PAGE_SESSIONS), query.follow
            while True:
                async with aclosing(self._onward(page, query, changed)) as pages:
                    async for page in pages:
                        message, rest = await page.message(), _rest(query, page.last_number, page.count)
                        ended = rest is None or page.sealed or (page.complete and not query.follow)
                        if page.count or ended or first:  # who waits learns at once that there is somebody to wait for
                            yield message
                        changed.took(message, complete=page.complete)
                        query, first = rest or query, False
                if ended:
                    return
                told = await changed.wait(SIGN_OF_LIFE_S)
                if not told:
                    yield replace(message, sessions=())
                changed.clear()
                page = await (self._shared_page if told else self._page)(query, PAGE_SESSIONS)
                if page.count and not told:
                    self._watcher.is_deaf()

    async def _onward(self, page: _Page, query: BatchQuery, changed: Changed) -> AsyncGenerator[_Page, None]:
        """Yield this page, and those after it up to the first that is complete.

        While one is sent, the next one is encoded and the one after that is read. While pages were encoded only once
        those before had been sent, a batch took 1.4 times as long; while each was begun only once the one before had
        its events, 1.07 times.
        """
        if page.complete:  # and so is nearly every page of who follows
            yield page
            return
        ahead = not query.limit  # what is left of a limit is known only once a page has its events
        while True:
            read_on = self._read_on(page, query, changed, ahead=ahead)
            async with aclosing(in_order(read_on, call, in_flight=1)) as pages:
                async for page_read in pages:
                    page = page_read
                    yield page
                    if page.overtaken:
                        break
            if not page.overtaken:
                return
            # What was begun after it is thrown away, and not kept for later: sessions that are moved or marked
            # meanwhile would be lost if pages were not snapshots of the batch one after the other.
            query, ahead = replace(query, after_number=page.last_number), False
            changed.clear()
            page = await self._page(query, PAGE_SESSIONS)

    async def _read_on(
        self, page: _Page, query: BatchQuery, changed: Changed, *, ahead: bool
    ) -> AsyncGenerator[Callable[[], Awaitable[_Page]], None]:
        """What gives this page encoded, and what gives those after it.

        `ahead`: each is begun as soon as the sessions of the one before are known.
        """
        yield page.encoded
        room = asyncio.Semaphore(_READ_AT_ONCE)
        rest = None if page.complete else _rest(query, page.last_number, page.count)
        while rest is not None:
            changed.clear()
            if ahead:
                begun: _Begun = asyncio.get_running_loop().create_future()
                yield partial(self._page_within, room, rest, begun)
                rest = await begun
            else:
                page = await self._page(rest, PAGE_SESSIONS)
                yield page.encoded
                rest = None if page.complete else _rest(rest, page.last_number, page.count)

    async def _page_within(self, room: asyncio.Semaphore, query: BatchQuery, begun: _Begun) -> _Page:
        """As `_page`, encoded, once there is room for it."""
        async with room:
            return await (await self._page(query, PAGE_SESSIONS, begun)).encoded()

    async def _shared_page(self, query: BatchQuery, most: int) -> _Page:
        """As `_page`, once for all readers who were woken together at the same place."""
        wanted = min(most, query.limit or most)
        key = self._watcher.wakes, replace(query, limit=wanted)
        read = self._shared.get(key)
        if read is None:
            # An empty context: the deadline of the reader that happened to come first is not that of the others.
            read = asyncio.create_task(self._encoded_page(query, most), context=Context())
            self._shared[key] = read
            read.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(read)

    async def _encoded_page(self, query: BatchQuery, most: int) -> _Page:
        return await (await self._page(query, most)).encoded()

    def _forget(self, key: Hashable, read: asyncio.Task[_Page]) -> None:
        del self._shared[key]
        if not read.cancelled():
            read.exception()  # asyncio complains of one that nobody took, as when all readers are gone

    async def _page(self, query: BatchQuery, most: int, begun: _Begun | None = None) -> _Page:
        """What the query asks for, `most` sessions of it.

        `begun` is told what to ask for after it as soon as its sessions are known, as if their events fitted.
        """
        async with (
            storage_call(self._timeout_s),
            await settle(self._client.start_session(snapshot=True)) as session,
        ):
            batch = await self._batches.get(query.batch_id, session=session)
            if batch is None:
                raise BatchNotFound.by_id(query.batch_id)
            self._watcher.learn(query.batch_id, batch.session_counter)
            sessions: list[Document] = []
            complete, last_number = True, query.after_number
            if last_number < batch.session_counter:
                sessions, complete = await self._read_sessions(query, min(most, query.limit or most), session)
                last_number = batch.session_counter if complete else sessions[-1]["session_number"]
            if begun is not None and not begun.done():  # it is done if who waits for it was cancelled
                begun.set_result(None if complete else _rest(query, last_number, len(sessions)))
            read_events = partial(
                self._events.of_sessions, limit=query.events_limit, bytes_max=self._events_bytes_max, session=session
            )
            found = await with_events(sessions, read_events)
        if len(found) < len(sessions):
            last_number = found[-1].document["session_number"]
            return _Page(found, last_number=last_number, overtaken=begun is not None)
        return _Page(found, last_number=last_number, complete=complete, sealed=complete and batch.sealed)

    async def _read_sessions(self, query: BatchQuery, wanted: int, session: Any) -> tuple[list[Document], bool]:
        where: Document = {"batch_id": query.batch_id, "session_number": {"$gt": query.after_number}}
        if query.exclude_irrelevant:
            where["is_irrelevant"] = {"$ne": True}
        found = self._sessions.find_raw_batches(where, session=session)
        return await read_sessions(found.sort("session_number", ASCENDING).limit(wanted + 1), wanted)


_Begun = asyncio.Future[BatchQuery | None]
"""What is to be asked for after a page; None: nothing."""


class _Page:
    """A page as it was read. May be shared by many readers.

    `complete`: it reached the end of what the batch held. `overtaken`: it ends before the place from which the page
    after it was begun, since the events of its sessions were too large for one page.
    """

    def __init__(
        self,
        found: list[FoundSession],
        *,
        last_number: int,
        complete: bool = False,
        sealed: bool = False,
        overtaken: bool = False,
    ) -> None:
        self.count = len(found)
        self.last_number = last_number
        self.complete = complete
        self.sealed = sealed
        self.overtaken = overtaken
        self._found = found
        self._message: MessagePage | None = None

    async def message(self) -> MessagePage:
        """The page as it is sent; encoded once, and then the documents, which are several times as large, are gone."""
        if self._message is None:
            sessions = [answer async for answer in in_turns(self._found, session_answer)]
            self._message = MessagePage(tuple(sessions), self.last_number, self.sealed)
            self._found = []
        return self._message

    async def encoded(self) -> _Page:
        """Make the message, and return this page."""
        await self.message()
        return self


def _rest(query: BatchQuery, last_number: int, count: int) -> BatchQuery | None:
    """What is left to be asked for after so many sessions; None once the limit is used up."""
    if query.limit and query.limit == count:
        return None
    left = query.limit - count if query.limit else 0
    return replace(query, after_number=last_number, limit=left)
