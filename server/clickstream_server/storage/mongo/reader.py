"""Reading a batch: page by page, each page one snapshot of the batch, its sessions and their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable
from contextlib import aclosing, asynccontextmanager
from contextvars import Context
from dataclasses import replace
from functools import partial
from math import inf
from operator import call
from time import monotonic
from typing import Any

from pymongo import ASCENDING

from clickstream.errors import BatchNotFound, StorageUnavailable
from clickstream_server.message_dao import BatchQuery, MessagePage
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.batches import BatchStore
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX
from clickstream_server.storage.mongo.errors import note_cause_of, storage_call, storage_unavailable
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.new_primary import UpToDate
from clickstream_server.storage.mongo.paging import (
    FEW_SESSIONS,
    FIRST_PAGE_SESSIONS,
    PAGE_SESSIONS,
    FoundSession,
    in_turns,
    read_sessions,
    with_events,
)
from clickstream_server.storage.mongo.pipeline import in_order
from clickstream_server.storage.mongo.to_pb import session_answer
from clickstream_server.storage.mongo.watcher import BatchWatcher, Changed, Lag

HEARTBEAT_S = 5.0
_PAGES_AT_ONCE = 6
"""So many are read and encoded at a time, of all readers together, but for first ones. Without that bound many readers
take several times the memory, and each page so long that it may run out of time.
"""
_PATIENCE = 3
"""So many times as long as reading a page may take, a reader waits until its turn comes."""


class BatchReader:
    """Reads batches. Nothing appears behind a reader, because a page never mixes two moments of the database."""

    def __init__(
        self,
        database: Any,
        up_to_date: UpToDate,
        batches: BatchStore,
        events: EventStore,
        *,
        events_bytes_max: int,
        timeout_s: float,
    ) -> None:
        self._up_to_date = up_to_date
        self._sessions = database[indexes.SESSIONS]
        self._batches = batches
        self._events = events
        self._events_bytes_max = events_bytes_max
        self._timeout_s = timeout_s
        self._watcher = BatchWatcher(database)
        self._room = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._shared: dict[Hashable, asyncio.Task[_Page]] = {}

    def lags(self) -> list[Lag]:
        """How far each reader that follows is behind."""
        return self._watcher.lags()

    async def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        await self._watcher.close(timeout_s)
        if reading := list(self._shared.values()):
            for read in reading:
                read.cancel()
            await asyncio.wait(reading, timeout=timeout_s)

    async def pages(self, query: BatchQuery) -> AsyncGenerator[MessagePage, None]:
        """Yield pages until the batch is read, or, following, until it is sealed."""
        if not query.batch_id:
            async with storage_call(self._timeout_s):
                query = replace(query, batch_id=(await self._batches.collecting()).batch_id)
        async with self._watcher.watch(query.batch_id if query.follow else None, query.after_number) as changed:
            few = 0 < query.limit <= FEW_SESSIONS
            page, said_at = await self._page(query, query.limit if few else FIRST_PAGE_SESSIONS), -inf
            while True:
                async with aclosing(self._onward(page, query, changed)) as pages:
                    async for page in pages:
                        message, rest = await page.message(), _rest(query, page)
                        ended = rest is None or page.sealed or (page.complete and not query.follow)
                        # A reader that waits gets a heartbeat at once, and then every few seconds.
                        if page.count or ended or monotonic() - said_at > HEARTBEAT_S:
                            yield message
                            said_at = monotonic()
                        changed.took(message, complete=page.complete)
                        query = rest or query
                if ended:
                    return
                told = await changed.wait(max(0.0, said_at + HEARTBEAT_S - monotonic()))
                if not told:
                    yield replace(message, sessions=())
                    said_at = monotonic()
                changed.clear()
                page = await (self._shared_page(query) if told else self._page_in_turn(query, PAGE_SESSIONS))
                if page.count and not told and not changed.is_set():  # it was told meanwhile, waiting for its turn
                    self._watcher.reopen()

    async def _onward(self, page: _Page, query: BatchQuery, changed: Changed) -> AsyncGenerator[_Page, None]:
        """Yield this page, and those after it up to the first that is complete.

        While one is sent, the next two are read and encoded. While pages were encoded only once those before had been
        sent, a batch took 1.4 times as long; while each was begun only once the one before had its events, 1.07 times.
        """
        if page.complete:  # and so is nearly every page of who follows
            yield page
            return
        ahead = not query.limit and not page.cut  # what is left of a limit is known once a page has its events
        while True:
            read_on = self._read_on(page, query, changed, ahead=ahead)
            async with aclosing(in_order(read_on, call, in_flight=3)) as pages:
                async for page in pages:  # noqa: PLR1704  # the first one is not to be held to the end
                    if ahead and page.cut:
                        break
                    yield page
            if not (ahead and page.cut):
                return
            # What was begun after it is thrown away, and not kept for later: sessions that are moved or marked
            # meanwhile would be lost if pages were not snapshots of the batch one after the other.
            ahead = False

    async def _read_on(
        self, page: _Page, query: BatchQuery, changed: Changed, *, ahead: bool
    ) -> AsyncGenerator[Callable[[], Awaitable[_Page]], None]:
        """What gives this page encoded, and what gives those after it, each when it is known where that one begins.

        `ahead`: as soon as the sessions of the one before are known; else once that has its events.
        """
        following = _following(query, page)
        yield page.encoded
        del page
        while following is not None:
            changed.clear()
            after: _After = asyncio.get_running_loop().create_future()
            yield partial(self._page_in_turn, *following, after, ahead=ahead)
            following = await after

    async def _page_in_turn(
        self, query: BatchQuery, most: int, after: _After | None = None, *, ahead: bool = False
    ) -> _Page:
        """As `_page`, encoded, once there is room for it. `after` is told what to ask for next."""
        async with self._has_room():
            page = await self._page(query, most, after if ahead else None)
            if after is not None and not after.done():
                after.set_result(_following(query, page))
            return await page.encoded()

    @asynccontextmanager
    async def _has_room(self) -> AsyncIterator[None]:
        """Inside, one page of some reader is read. To wait for that does not use up the time that reading has."""
        try:
            async with asyncio.timeout(_PATIENCE * self._timeout_s):
                await self._room.acquire()
        except TimeoutError as error:
            raise storage_unavailable() from error
        try:
            yield
        finally:
            self._room.release()

    async def _shared_page(self, query: BatchQuery) -> _Page:
        """As `_page_in_turn`, once for all readers who were woken together at the same place."""
        key = self._watcher.wakes, replace(query, limit=min(PAGE_SESSIONS, query.limit or PAGE_SESSIONS))
        read = self._shared.get(key)
        if read is None:
            # An empty context: the deadline of the reader that happened to come first is not that of the others.
            read = asyncio.create_task(self._page_in_turn(query, PAGE_SESSIONS), context=Context())
            self._shared[key] = read
            read.add_done_callback(partial(self._forget, key))
        try:
            return await asyncio.shield(read)
        except StorageUnavailable as error:
            note_cause_of(error)
            raise

    def _forget(self, key: Hashable, read: asyncio.Task[_Page]) -> None:
        del self._shared[key]
        if not read.cancelled():
            read.exception()  # asyncio complains of one that nobody took, as when all readers are gone

    async def _page(self, query: BatchQuery, most: int, after: _After | None = None) -> _Page:
        """What the query, which has no limit if there is an `after`, asks for: `most` sessions of it.

        `after` is told what to ask for next as soon as the sessions are known, as if their events fitted into the page.
        """
        async with (
            storage_call(self._timeout_s),
            self._up_to_date.snapshot(lambda session: self._batches.get_in(session, query.batch_id)) as (
                session,
                batch,
            ),
        ):
            if batch is None:
                raise BatchNotFound.by_id(query.batch_id)
            self._watcher.learn(query.batch_id, batch.session_counter)
            sessions: list[Document] = []
            complete = True
            if query.after_number < batch.session_counter:
                sessions, complete = await self._read_sessions(query, min(most, query.limit or most), session)
            last_number = max(query.after_number, batch.session_counter) if complete else sessions[-1]["session_number"]
            if after is not None and not after.done():  # it is done if who waits for it was cancelled
                after.set_result(None if complete else (replace(query, after_number=last_number), most))
            read_events = partial(
                self._events.of_sessions, limit=query.events_limit, bytes_max=self._events_bytes_max, session=session
            )
            found = await with_events(sessions, read_events)
        if len(found) < len(sessions):
            return _Page(found, last_number=found[-1].document["session_number"], cut=True)
        return _Page(found, last_number=last_number, complete=complete, sealed=complete and batch.sealed)

    async def _read_sessions(self, query: BatchQuery, wanted: int, session: Any) -> tuple[list[Document], bool]:
        """So many of its sessions at most, and whether there are no more."""
        where: Document = {"batch_id": query.batch_id, "session_number": {"$gt": query.after_number}}
        if query.exclude_irrelevant:
            where["is_irrelevant"] = {"$ne": True}
        found = self._sessions.find_raw_batches(where, session=session)
        return await read_sessions(found.sort("session_number", ASCENDING).limit(wanted + 1), wanted)


_Following = tuple[BatchQuery, int]
"""What is to be asked for after a page, and how many sessions of it."""
_After = asyncio.Future[_Following | None]


class _Page:
    """A page as it was read. May be shared by many readers.

    `complete`: it reached the end of what the batch held. `cut`: it ends before its sessions did, whose events were too
    large for one page.
    """

    def __init__(
        self,
        found: list[FoundSession],
        *,
        last_number: int,
        complete: bool = False,
        sealed: bool = False,
        cut: bool = False,
    ) -> None:
        self.count = len(found)
        self.last_number = last_number
        self.complete = complete
        self.sealed = sealed
        self.cut = cut
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


def _following(query: BatchQuery, page: _Page) -> _Following | None:
    """What is to be read after this page; None where nothing is left."""
    rest = None if page.complete else _rest(query, page)
    # Where so many were too large to be read at once, the next ones may be as well.
    return None if rest is None else (rest, min(PAGE_SESSIONS, 2 * page.count) if page.cut else PAGE_SESSIONS)


def _rest(query: BatchQuery, page: _Page) -> BatchQuery | None:
    """What is left to be asked for after this page; None once the limit is used up."""
    if query.limit and query.limit == page.count:
        return None
    left = query.limit - page.count if query.limit else 0
    return replace(query, after_number=page.last_number, limit=left)
