"""Readers who follow a batch and are woken together share one read, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import ImportItem, Session, SessionEvent, SessionWithEvents, StorageUnavailable
from clickstream_server.call_record import begin_call, this_call
from clickstream_server.config import Settings
from clickstream_server.deadlines import deadline
from clickstream_server.storage.mongo import reader as batch_reader
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.watcher import BatchWatcher, Changed
from harness import PATIENCE_S, eventually, opened_dao
from importing import config, imported

READERS = 20


@pytest.fixture(params=["motor", "pymongo"])
async def dao(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> AsyncIterator[MongoClickstreamDao]:
    settings = Settings(mongodb_database=database, mongodb_driver=request.param)
    async with opened_dao(mongodb_uri, settings) as opened:
        yield opened


class Reader:
    """Follows the collecting batch, which holds one session, and keeps what came."""

    def __init__(self, dao: MongoClickstreamDao, **options: Any) -> None:
        self.came: list[SessionWithEvents] = []
        self.task = asyncio.create_task(self._follow(dao, options))

    async def _follow(self, dao: MongoClickstreamDao, options: dict[str, Any]) -> None:
        async with aclosing(dao.get_batch_sessions("", follow=True, **options)) as sessions:
            async for found in sessions:
                self.came.append(found)

    async def has(self, count: int) -> bool:
        return len(self.came) >= count or self.task.done()


async def following(*readers: Reader, count: int = 1) -> None:
    """Wait until each has got so many sessions."""
    for reader in readers:
        await eventually(partial(reader.has, count), f"{count} sessions came")


async def register(dao: MongoClickstreamDao, *numbers: int) -> None:
    for number in numbers:
        await dao.push_events(
            [SessionEvent(session_id=f"s{number}", event_id=f"e{n}", object_id="o") for n in range(3)]
        )
        await dao.register_session(Session(session_id=f"s{number}", is_irrelevant=number % 2 == 0))


async def test_readers_woken_together_read_once(dao: MongoClickstreamDao, mongodb_uri: str, database: str) -> None:
    """However many follow, a session that comes is read from the database once or a few times."""
    await register(dao, 1)
    readers = [Reader(dao) for _ in range(READERS)]
    await following(*readers)
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await mongo[database].command("profile", 2)
        await dao.register_session(Session(session_id="s2"))
        await following(*readers, count=2)
        await mongo[database].command("profile", 0)
        asked = {"ns": f"{database}.sessions", "command.filter.session_number": {"$exists": True}}
        reads = await mongo[database]["system.profile"].count_documents(asked)
    await dao.release_batch("r")
    await asyncio.gather(*(reader.task for reader in readers))

    assert 1 <= reads <= READERS / 4


async def test_each_reader_gets_what_it_asked_for(dao: MongoClickstreamDao) -> None:
    """Readers at one place who ask for other events, other sessions or fewer of them each get just that."""
    await register(dao, 1)
    every, few, none = (Reader(dao, events_limit=limit) for limit in (None, 1, 0))
    relevant, limited, late = Reader(dao, exclude_irrelevant=True), Reader(dao, limit=2), Reader(dao, after_number=1)
    await following(every, few, none, relevant, limited)
    await register(dao, 2, 3)
    await dao.release_batch("r")
    await asyncio.gather(*(reader.task for reader in (every, few, none, relevant, limited, late)))

    def got(reader: Reader) -> list[tuple[int, int, int]]:
        return [(found.session_number, len(found.events), found.event_count) for found in reader.came]

    assert [(n, 3, 3) for n in (1, 2, 3)] == got(every)
    assert [(n, 1, 3) for n in (1, 2, 3)] == got(few)
    assert [(n, 0, 3) for n in (1, 2, 3)] == got(none)
    assert [(n, 3, 3) for n in (1, 3)] == got(relevant)
    assert [(n, 3, 3) for n in (1, 2)] == got(limited)
    assert [(n, 3, 3) for n in (2, 3)] == got(late)


async def test_a_reader_that_leaves_takes_nobody_along(dao: MongoClickstreamDao) -> None:
    """Readers cancelled in the middle of a read that they share do not end it for the others."""
    await register(dao, 1)
    readers = [Reader(dao) for _ in range(READERS)]
    await following(*readers)
    registering = asyncio.create_task(register(dao, 2))
    async with asyncio.timeout(PATIENCE_S):
        while not dao._reader._shared:  # noqa: ASYNC110  # a moment that cannot be seen from outside
            await asyncio.sleep(0)
    staying = readers.pop()
    for reader in readers:
        reader.task.cancel()
    await asyncio.gather(registering, *(reader.task for reader in readers), return_exceptions=True)
    await dao.release_batch("r")
    await staying.task

    assert [1, 2] == [found.session_number for found in staying.came]


async def test_a_deadline_is_of_its_reader_alone(dao: MongoClickstreamDao) -> None:
    """The deadline of the reader that comes first does not bound the read that others share with it."""
    await register(dao, 1)
    with deadline(1.0):
        hurried = [Reader(dao) for _ in range(READERS)]
    ends_at = monotonic() + 1.0
    calm = Reader(dao)
    await following(*hurried, calm)

    async def is_over() -> bool:
        return monotonic() > ends_at

    await eventually(is_over, "the deadline")
    await register(dao, 2)
    await following(calm, count=2)
    await dao.release_batch("r")
    await asyncio.gather(calm.task, *(reader.task for reader in hurried), return_exceptions=True)

    assert [1, 2] == [found.session_number for found in calm.came]


async def test_what_comes_before_the_watch_is_open_is_told(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is registered after a reader's first page and before the watch is open comes at once."""
    opens = asyncio.Event()
    watch = BatchWatcher._pass_on_changes

    async def late(watcher: BatchWatcher) -> None:
        await opens.wait()
        await watch(watcher)

    monkeypatch.setattr(batch_reader, "HEARTBEAT_S", 10 * PATIENCE_S)
    monkeypatch.setattr(BatchWatcher, "_pass_on_changes", late)
    await register(dao, 1)
    follower = Reader(dao)
    await following(follower)
    await register(dao, 2)
    opens.set()
    await following(follower, count=2)
    follower.task.cancel()
    await asyncio.wait([follower.task])


async def test_what_comes_while_a_page_is_read_is_told(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is registered while a reader is given the one before comes at once, too."""
    watcher = dao._reader._watcher
    read = batch_reader.BatchReader._page_in_turn
    registered = False

    async def overtaken(*arguments: Any, **more: Any) -> Any:
        nonlocal registered
        page = await read(*arguments, **more)
        if not registered:
            registered, wakes = True, watcher.wakes
            await register(dao, 3)

            async def woken() -> bool:
                return watcher.wakes > wakes

            await eventually(woken, "readers are told")
        return page

    monkeypatch.setattr(batch_reader, "HEARTBEAT_S", 10 * PATIENCE_S)
    await register(dao, 1)
    follower = Reader(dao)
    await following(follower)
    monkeypatch.setattr(batch_reader.BatchReader, "_page_in_turn", overtaken)
    await register(dao, 2)
    await following(follower, count=3)
    follower.task.cancel()
    await asyncio.wait([follower.task])

    assert registered


async def test_a_deaf_watch_is_opened_anew_once(dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that finds several pages of which nobody told it has the watch opened anew once, not for each page."""
    opened = 0

    def reopen(_watcher: BatchWatcher) -> None:
        nonlocal opened
        opened += 1

    monkeypatch.setattr(batch_reader, "PAGE_SESSIONS", 1)
    monkeypatch.setattr(batch_reader, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(Changed, "set", lambda _changed: None)
    monkeypatch.setattr(BatchWatcher, "reopen", reopen)
    await register(dao, 1)
    follower = Reader(dao)
    await following(follower)
    await imported(dao, config(), [ImportItem(Session(session_id=f"late {n}")) for n in range(6)])
    await following(follower, count=7)
    follower.task.cancel()
    await asyncio.wait([follower.task])

    assert [f"late {n}" for n in range(6)] == [one.session.session_id for one in follower.came[1:]]
    assert opened == 1


async def test_each_reader_knows_why_their_read_failed(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver said of a read that several calls share is known to each of them, for its line in the log."""
    await register(dao, 1)
    records, readers = [], []
    for _ in range(3):
        begin_call(())
        records.append(this_call())
        readers.append(Reader(dao))
    await following(*readers)
    monkeypatch.setattr(dao._reader, "_timeout_s", 1e-6)
    await dao.register_session(Session(session_id="s2"))
    ends = await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)

    assert [StorageUnavailable] * 3 == [type(end) for end in ends]
    assert all(record.cause for record in records)
