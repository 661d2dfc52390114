"""What an import has under way in the database, and when."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import (
    ImportAborted,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportMode,
    PushResult,
    ShuttingDown,
    StorageUnavailable,
)
from clickstream_server.storage.mongo import events
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.dry_run import DryRun
from clickstream_server.storage.mongo.importer import SIMULATED_AT_ONCE
from clickstream_server.storage.mongo.known import known_events
from harness import PATIENCE_S, eventually, stands_still
from importing import atomic, bad, config, each, event, imported, item, session


async def test_a_failed_chunk_leaves_no_write_behind(dao: MongoClickstreamDao, mongodb_uri: str, database: str) -> None:
    """An import whose sessions get no numbers fails once its events are written, and not while they still are."""
    async with AsyncMongoClient[Any](mongodb_uri) as mongo, mongo.start_session() as other:
        stored = mongo[database].events
        await other.start_transaction()
        await stored.insert_one({"_id": {"session_id": "s", "event_id": "0"}}, session=other)  # who writes it waits
        await dao.close()  # the sessions' error
        importing = asyncio.create_task(imported(dao, config(mode=ImportMode.REPLACE_EXISTING), [item("s", 3)]))

        async def is_writing() -> bool:
            wanted = {"ns": stored.full_name, "command.insert": "events"}
            return await (await mongo.admin.aggregate([{"$currentOp": {}}, {"$match": wanted}])).to_list() != []

        await eventually(is_writing, "the events are being written")
        failed_before = importing.done()
        await other.abort_transaction()
        with pytest.raises(ShuttingDown):
            await importing

        assert not failed_before
        assert 3 == await stored.count_documents({})


async def test_a_write_that_comes_late_replaces_nothing_newer(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import fails where what it is to replace was replaced since it looked, and leaves the newer content."""

    async def replaced_with(text: str) -> None:
        await imported(dao, config(mode=ImportMode.REPLACE_EXISTING), [ImportItem(None, [event("s", "e", text)])])

    async def overtaken(*arguments: Any, **more: Any) -> Any:
        found = await known_events(*arguments, **more)
        monkeypatch.setattr(events, "known_events", known_events)
        await replaced_with("newer")
        return found

    await dao.register_session(session("s"))
    await replaced_with("old")
    monkeypatch.setattr(events, "known_events", overtaken)
    with pytest.raises(StorageUnavailable):
        await replaced_with("late")
    found = await dao.get_session("s")

    assert found is not None
    assert [{"text": "newer"}] == [one.meta for one in found.events]


async def test_a_known_event_that_cannot_be_seen_is_not_told_as_stored(
    dao: MongoClickstreamDao, mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event whose key is taken by one that is not there for good, and may go again, is to be sent again."""

    async def gone(*arguments: Any, **more: Any) -> Any:
        async with AsyncMongoClient[Any](mongodb_uri) as mongo:
            await mongo[database].events.delete_many({})
        return await known_events(*arguments, **more)

    await dao.push_events([event("s", "e")])
    with monkeypatch.context() as patched:
        patched.setattr(events, "known_events", gone)
        with pytest.raises(StorageUnavailable):
            await dao.push_events([event("s", "e")])

    assert PushResult(inserted=1) == await dao.push_events([event("s", "e")])


@pytest.mark.parametrize("chosen", [config, atomic])
async def test_a_dry_run_of_a_large_chunk_lets_others_go_on(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch, chosen: Callable[..., ImportConfig]
) -> None:
    """A chunk of thousands of sessions and events is simulated in parts, between which other calls have their turn."""
    parts: list[int] = []

    def counted(self: DryRun, sessions: Iterable[Document] = (), events: Iterable[Document] = ()) -> None:
        sessions, events = list(sessions), list(events)
        parts.append(len(sessions) + len(events))
        add(self, sessions, events)

    add = DryRun.add
    monkeypatch.setattr(DryRun, "add", counted)
    _, summary = await imported(dao, chosen(dry_run=True), [item(str(number), 6) for number in range(700)])

    assert (700, 4_200) == (summary.sessions.inserted, summary.events.inserted)
    assert sum(parts) == 4_900
    assert max(parts) <= SIMULATED_AT_ONCE


async def test_an_import_that_is_left_leaves_nothing_running(dao: MongoClickstreamDao) -> None:
    """Once an import that still had chunks to come is closed, none of its tasks is left."""
    before = asyncio.all_tasks()

    def running() -> set[str]:
        return {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks() - before}

    # A group that is under way is finished, and the driver has tasks of its own.
    in_order = {"in_order.<locals>.feed", "in_order.<locals>.run"}
    async with aclosing(dao.import_sessions(config(), each(*([item(f"{n}", 1)] for n in range(100))))) as answers:
        await anext(answers)
        assert in_order <= running()

    assert not running() & {"_next", "Event.wait", "Importer._number", "Importer._insert", *in_order}


async def test_a_stop_says_what_was_too_much(dao: MongoClickstreamDao) -> None:
    """Where chunks in flight do better than those that stopped the import, it still names a share past the ratio."""
    told: list[Any] = []
    chunks = [[bad(n) if n < 11 else item(f"{n}", 0) for n in range(100)], *([item(f"{n}", 0)] * 400 for n in "abc")]
    with pytest.raises(ImportAborted) as raised:
        async for answer in dao.import_sessions(config(max_failure_ratio=0.1), each(*chunks)):
            told.append(answer)
    failed, of = map(int, re.findall(r"([0-9]+) of ([0-9]+) items failed", raised.value.message)[0])

    assert told[-1].aborted
    assert told[-1].processed > 110  # as many as would bring 11 below the ratio
    assert failed / of > 0.1


@pytest.mark.parametrize(
    ("count", "text"), [(4_000, "lamp"), (100, "x" * 60_000)], ids=["sessions and events", "bytes"]
)
async def test_what_an_import_reads_ahead_is_bounded(
    dao: MongoClickstreamDao, mongodb_uri: str, database: str, count: int, text: str
) -> None:
    """While sessions get no numbers, two chunks wait that fit into the bounds together, and a third is read at most."""
    read = 0

    async def chunks() -> AsyncIterator[ImportChunk]:
        nonlocal read
        for number in range(1, 7):
            read = number
            events = [event(f"s{number}", str(place), text) for place in range(count)]
            yield ImportChunk(number, [ImportItem(session(f"s{number}"), events)])

    await dao.register_session(session("first"))
    async with AsyncMongoClient[Any](mongodb_uri) as mongo, mongo.start_session() as other:
        await other.start_transaction()
        await mongo[database].batches.update_one({}, {"$set": {"held": True}}, session=other)
        async with asyncio.timeout(2 * PATIENCE_S), aclosing(dao.import_sessions(atomic(), chunks())) as answers:
            first = asyncio.ensure_future(anext(answers))
            held = await stands_still(lambda: read)
            await other.abort_transaction()
            await first
            *_, summary = [answer async for answer in answers]

    assert 3 == held
    assert (6, 6 * count) == (summary.sessions.inserted, summary.events.inserted)
