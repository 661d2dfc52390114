"""What a page of a batch or an export may hold of events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from clickstream import ExportFilter, ImportItem, Session, SessionEvent
from clickstream_server.config import Settings
from clickstream_server.message_dao import BatchQuery
from clickstream_server.storage.mongo import events, exporter, reader
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.raw_batches import TooManyBytes
from harness import PATIENCE_S, eventually, opened_dao
from importing import NOON, atomic, config, imported

Change = Callable[[MongoClickstreamDao, Session], Awaitable[None]]


async def test_the_sessions_of_a_page_are_bounded(mongodb_uri: str, database: str) -> None:
    """Large sessions come few to a page, each once and in order."""
    sessions = [Session(session_id=f"s{n:02}", search_query="x" * 400_000, created_at=NOON) for n in range(20)]
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
        for at in range(0, 20, 10):
            await imported(dao, config(), [ImportItem(session) for session in sessions[at : at + 10]])
        batch = (await dao.release_batch("r")).batch
        pages = [page.sessions async for page in dao.get_batch_pages(batch.batch_id)]

    assert sessions == [found.session for page in pages for found in page]
    assert 3 == max(map(len, pages))  # past 1 MiB no more is put to a page


@pytest.mark.parametrize("surplus", [0, 1_000])
async def test_the_events_of_a_page_are_bounded_together(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch, surplus: int
) -> None:
    """The bound is that of all sessions of a page, also of those that are asked for their events one by one."""
    monkeypatch.setattr(events, "_SURPLUS_MAX", surplus)
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
        for name in "abcd":
            await dao.push_events(
                [SessionEvent(session_id=name, event_id=f"{n}", object_id="o", meta={"m": "x" * 999}) for n in range(3)]
            )
        few = await dao._events.of_sessions("ab", limit=2, bytes_max=10_000, session=None)
        with pytest.raises(TooManyBytes):
            await dao._events.of_sessions("abcd", limit=2, bytes_max=7_000, session=None)

    assert {"a": (2, 3), "b": (2, 3)} == {name: (len(found.documents), found.count) for name, found in few.items()}


MESSAGE_BYTES_MAX = 64 * 1024
LARGE = range(5, 40)
"""The sessions with events of 30 KB: four of these have as many as a page may hold, and a page asks for ten."""


def item(number: int) -> ImportItem:
    session_id = f"s{number:02}"
    events = [
        SessionEvent(session_id=session_id, event_id=f"{n}", object_id="o", created_at=NOON, meta={"m": "x" * 10_000})
        for n in range(3 if number in LARGE else number % 2)
    ]
    return ImportItem(Session(session_id=session_id, is_irrelevant=number % 7 == 0, created_at=NOON), events)


ITEMS = [item(number) for number in range(1, 61)]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reader, exporter):
        monkeypatch.setattr(module, "FIRST_PAGE_SESSIONS", 2)
        monkeypatch.setattr(module, "PAGE_SESSIONS", 10)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize(
    "asked",
    [{}, {"limit": 23}, {"after_number": 7, "limit": 40}, {"events_limit": 2}, {"exclude_irrelevant": True}],
    ids=str,
)
async def test_pages_are_cut_where_their_events_are_too_large(
    mongodb_uri: str, database: str, small_pages: None, driver: Any, asked: dict[str, Any]
) -> None:
    """Where the events of a page's sessions are too large for one page they come on several: each once, in order."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, message_bytes_max=MESSAGE_BYTES_MAX)
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS)
        batch = (await dao.release_batch("r")).batch
        pages = [page async for page in dao.get_batch_pages(batch.batch_id, **asked)]

    after, limit, events_limit = asked.get("after_number", 0), asked.get("limit"), asked.get("events_limit")
    wanted = [item for item in ITEMS if not (asked.get("exclude_irrelevant") and item.session.is_irrelevant)]
    assert [(item.session.session_id, len(item.events[:events_limit])) for item in wanted[after:][:limit]] == [
        (found.session.session_id, len(found.events)) for page in pages for found in page.sessions
    ]
    assert max(len(page.sessions) for page in pages if page.last_number in LARGE) < 10
    assert [page.sessions[-1].session_number for page in pages if page.sessions] == [
        page.last_number for page in pages if page.sessions
    ]
    assert [False] * (len(pages) - 1) + [limit is None] == [page.sealed for page in pages]


async def move(dao: MongoClickstreamDao, session: Session) -> None:
    """Give it the next number of the batch."""
    await dao.update_session(session.model_copy(update={"search_query": "moved"}))


async def mark(dao: MongoClickstreamDao, session: Session) -> None:
    await dao.mark_session_irrelevant(session.session_id)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("change", [move, mark])
async def test_nothing_is_lost_that_changes_while_pages_are_cut(
    mongodb_uri: str, database: str, small_pages: None, *, driver: Any, follow: bool, change: Change
) -> None:
    """Sessions that are moved or marked ahead of a reader cost it none of the others, nor those that were moved."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, message_bytes_max=MESSAGE_BYTES_MAX)
    asked = {"exclude_irrelevant": True} if change is mark else {}
    sessions = [item.session for item in ITEMS[:49]]
    left = {session.session_id for session in sessions if not (asked and session.is_irrelevant)}
    found: list[tuple[int, str]] = []
    sealed = []
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS[:49])
        batch_id = (await dao.list_batches()).batches[0].batch_id
        async with aclosing(dao.get_batch_pages(batch_id, follow=follow, **asked)) as pages:
            async for page in pages:
                found += [(read.session_number, read.session.session_id) for read in page.sessions]
                sealed.append(page.sealed)
                ahead = sessions[page.last_number :]
                late = LARGE[-10] <= page.last_number  # when the last page may have been read already
                for session in [*ahead[:2], *ahead[-1:]] if late else ():
                    await change(dao, session)
                    if change is mark:
                        left.discard(session.session_id)
                if follow and not ahead:
                    await dao.release_batch("r")

    numbers = [number for number, _ in found]
    assert sorted(set(numbers)) == numbers
    assert left <= {session_id for _, session_id in found}
    assert [False] * (len(sealed) - 1) + [follow] == sealed


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_readers_that_share_a_cut_page_go_on_each_for_itself(
    mongodb_uri: str, database: str, small_pages: None, driver: Any
) -> None:
    """Followers who are woken together, with a limit and without one, each get what they asked for."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, message_bytes_max=MESSAGE_BYTES_MAX)

    async def follow(limit: int) -> list[str]:
        async with aclosing(dao.get_batch_sessions("", follow=True, limit=limit)) as sessions:
            return [read.session.session_id async for read in sessions]

    async def waiting() -> bool:
        return len(dao.lags()) == len(limits)

    limits = [0, 25, 0, 40, 25]
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS[:1])
        reading = [asyncio.create_task(follow(limit)) for limit in limits]
        await eventually(waiting, "all follow")
        await imported(dao, atomic(import_id="j"), ITEMS[1:])
        await dao.release_batch("r")
        found = await asyncio.wait_for(asyncio.gather(*reading), PATIENCE_S)

    ids = [item.session.session_id for item in ITEMS]
    assert [ids[: limit or None] for limit in limits] == found


class PagesAtOnce:
    """How many pages are read at a time at most, but for first ones, from here on."""

    def __init__(self, dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = 0
        self._read_page = dao._reader._page
        monkeypatch.setattr(dao._reader, "_page", self._page)

    async def _page(self, query: BatchQuery, *arguments: Any) -> Any:
        counts = bool(query.after_number)
        self._now += counts
        self.most = max(self.most, self._now)
        try:
            return await self._read_page(query, *arguments)
        finally:
            self._now -= counts


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_many_readers_take_turns(
    mongodb_uri: str, database: str, small_pages: None, monkeypatch: pytest.MonkeyPatch, driver: Any
) -> None:
    """However many read, few pages are read at a time; each gets all, also if others go away or stand still."""
    monkeypatch.setattr(reader, "_PAGES_AT_ONCE", 2)
    settings = Settings(mongodb_database=database, mongodb_driver=driver, message_bytes_max=MESSAGE_BYTES_MAX)

    async def ids(most_pages: int) -> list[str]:
        found: list[str] = []
        async with aclosing(dao.get_batch_pages(batch_id)) as pages:
            async for page in pages:
                found += [read.session.session_id for read in page.sessions]
                if not (most_pages := most_pages - 1):
                    break
        return found

    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS)
        batch_id = (await dao.list_batches()).batches[0].batch_id
        async with aclosing(dao.get_batch_pages(batch_id)) as stands_still:
            await anext(stands_still)
            await anext(stands_still)
            at_once = PagesAtOnce(dao, monkeypatch)
            asked = [0, 1, 0, 2, 0, 3, 0]
            found = await asyncio.wait_for(asyncio.gather(*map(ids, asked)), PATIENCE_S)

    assert [[item.session.session_id for item in ITEMS]] * 4 == found[::2]
    assert 2 == at_once.most


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_followers_take_turns(
    mongodb_uri: str, database: str, small_pages: None, monkeypatch: pytest.MonkeyPatch, driver: Any
) -> None:
    """Of followers who are woken together but want different things, too, few read at a time, and each gets all."""
    monkeypatch.setattr(reader, "_PAGES_AT_ONCE", 2)
    settings = Settings(mongodb_database=database, mongodb_driver=driver, message_bytes_max=MESSAGE_BYTES_MAX)

    async def follow(limit: int) -> list[str]:
        async with aclosing(dao.get_batch_sessions("", follow=True, limit=limit)) as sessions:
            return [read.session.session_id async for read in sessions]

    async def waiting() -> bool:
        return len(dao.lags()) == len(limits)

    limits = [*range(2, 10)]
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS[:1])
        following = [asyncio.create_task(follow(limit)) for limit in limits]
        await eventually(waiting, "all follow")
        at_once = PagesAtOnce(dao, monkeypatch)
        await imported(dao, atomic(import_id="j"), ITEMS[1:])
        found = await asyncio.wait_for(asyncio.gather(*following), PATIENCE_S)

    ids = [item.session.session_id for item in ITEMS]
    assert [ids[:limit] for limit in limits] == found
    assert 2 == at_once.most


async def test_exports_go_on_after_a_page_that_was_cut(
    mongodb_uri: str, database: str, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export has each session once, also of those whose events are too large for one page.

    After a page that was cut it asks for twice as many sessions as came, not for as many as fit into no page.
    """
    reads: list[tuple[int, int]] = []
    read = exporter.Exporter._page

    async def noted(self: exporter.Exporter, *args: Any, **options: Any) -> Any:
        found, complete = await read(self, *args, **options)
        reads.append((args[2], len(found)))
        return found, complete

    monkeypatch.setattr(exporter.Exporter, "_page", noted)
    settings = Settings(mongodb_database=database, message_bytes_max=MESSAGE_BYTES_MAX)
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS)
        pages = [page async for page in dao.export_sessions(ExportFilter())]

    asked = [10 if wanted == found else min(10, 2 * found) for wanted, found in reads]
    assert asked[:-1] == [wanted for wanted, _ in reads[1:]]
    assert min(found for _, found in reads) < 10 // 2
    assert [(item.session.session_id, len(item.events)) for item in ITEMS] == [
        (found.session.session.session_id, len(found.session.events)) for page in pages for found in page.sessions
    ]


async def test_batches_go_on_after_a_page_that_was_cut(
    mongodb_uri: str, database: str, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a page of a batch that was cut, twice as many sessions as came are asked for, not as many as never fit."""
    reads: list[tuple[int, reader._Page]] = []
    read = reader.BatchReader._page

    async def noted(self: reader.BatchReader, query: BatchQuery, most: int, after: Any = None) -> Any:
        page = await read(self, query, most, after)
        if after is None:  # else it is begun before the one before it is known to be cut, and may be thrown away
            reads.append((most, page))
        return page

    monkeypatch.setattr(reader.BatchReader, "_page", noted)
    settings = Settings(mongodb_database=database, message_bytes_max=MESSAGE_BYTES_MAX)
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS)
        pages = [page async for page in dao.get_batch_pages((await dao.list_batches()).batches[0].batch_id)]

    first, *others = reads
    asked = [min(10, 2 * page.count) if page.cut else 10 for _, page in others]
    assert asked[:-1] == [most for most, _ in others[1:]]
    assert 2 == first[0]
    assert min(asked) < 10
    assert [page.last_number for page in pages][-len(others) :] == [page.last_number for _, page in others]


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_an_export_of_few_events_reads_a_bounded_page_of_all(
    mongodb_uri: str, database: str, small_pages: None, driver: Any
) -> None:
    """Events that are only counted are read, too: of several sessions no more than a page may hold, of one all."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, message_bytes_max=MESSAGE_BYTES_MAX)
    one, *more = [ITEMS[number - 1].session.session_id for number in LARGE]
    bounds: dict[str, Any] = {"limit": 1, "types": (), "bytes_max": 25_000, "session": None}
    async with opened_dao(mongodb_uri, settings) as dao:
        await imported(dao, config(), ITEMS)
        with pytest.raises(TooManyBytes):
            await dao._events.collect([one, more[0]], **bounds)
        alone = await dao._events.collect([one], **bounds)
        pages = [page async for page in dao.export_sessions(ExportFilter(), events_limit=1)]

    assert {one: (1, 3)} == {name: (len(found.documents), found.count) for name, found in alone.items()}
    assert [(item.session.session_id, len(item.events[:1]), len(item.events)) for item in ITEMS] == [
        (found.session.session.session_id, len(found.session.events), found.session.event_count)
        for page in pages
        for found in page.sessions
    ]


async def test_an_export_goes_on_where_its_last_page_was_cut(
    mongodb_uri: str, database: str, small_pages: None
) -> None:
    """Where the last sessions of all are too large for one page an export does not end with the first of them."""
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database, message_bytes_max=MESSAGE_BYTES_MAX)) as dao:
        await imported(dao, config(), ITEMS[: LARGE[-1]])
        pages = [page async for page in dao.export_sessions(ExportFilter())]

    assert [item.session.session_id for item in ITEMS[: LARGE[-1]]] == [
        found.session.session.session_id for page in pages for found in page.sessions
    ]
