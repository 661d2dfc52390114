"""What the server holds of what is stored, where that is much larger than what is sent again under the same keys."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import pytest
from pymongo import AsyncMongoClient

from clickstream import ImportConfig, ImportItem, ImportMode, PushResult, SessionEvent, WriteOutcome
from clickstream_server.config import Settings
from clickstream_server.limits import ID_CHARS_MOST
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from harness import PATIENCE_S, opened_dao
from importing import atomic, config, event, imported, item, session

EVENTS = 400
T = TypeVar("T")


@pytest.fixture(params=["motor", "pymongo"])
async def dao(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> AsyncIterator[MongoClickstreamDao]:
    settings = Settings(mongodb_database=database, mongodb_driver=request.param, storage_timeout_s=PATIENCE_S)
    async with opened_dao(mongodb_uri, settings) as opened:
        yield opened


@pytest.fixture
async def stored(mongodb_uri: str, database: str) -> AsyncIterator[Any]:
    """The database itself."""
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        yield mongo[database]


@asynccontextmanager
async def reads_of(stored: Any, collection: str) -> AsyncIterator[list[dict[str, Any]]]:
    """In the end: what MongoDB's profiler says of the reads of a collection."""
    reads: list[dict[str, Any]] = []
    await stored.command("profile", 2)
    yield reads
    await stored.command("profile", 0)
    wanted = {"ns": f"{stored.name}.{collection}", "op": {"$in": ["query", "getmore"]}}
    reads += await stored["system.profile"].find(wanted).to_list()


async def together(calls: Iterable[Awaitable[T]]) -> list[T]:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*calls)


@contextmanager
def growth_max() -> Iterator[list[int]]:
    """In the end the only item: how many bytes more than at the beginning Python has held at most."""
    grown: list[int] = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield grown
        grown.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


def events(text: str) -> list[SessionEvent]:
    return [event("s", str(number), text) for number in range(EVENTS)]


async def push(dao: MongoClickstreamDao, text: str) -> PushResult:
    """The account of all pushes; each is as large as a message may be."""
    told = [await dao.push_events(events(text)[at : at + 100]) for at in range(0, EVENTS, 100)]
    return PushResult(inserted=sum(one.inserted for one in told))


async def test_small_events_do_not_bring_large_ones_into_memory(dao: MongoClickstreamDao) -> None:
    """Conflicts with 24 MB of stored events are told while less than that is held in all."""
    assert EVENTS == (await push(dao, "x" * 60_000)).inserted
    with growth_max() as grown:
        told = await dao.push_events(events("other"))

    assert (0, 0, EVENTS) == (told.inserted, told.duplicates, told.conflicts)
    assert grown[0] < 24 * 1000 * 1000


async def test_of_duplicates_nothing_but_the_hash_is_read(dao: MongoClickstreamDao, stored: Any) -> None:
    """Events that are sent again bring their keys and hashes out of the database, and no content."""
    await push(dao, "x" * 60_000)
    async with reads_of(stored, "events") as reads:
        told = await dao.push_events(events("x" * 60_000)[:100])

    assert 100 == told.duplicates
    assert ["query"] == [read["op"] for read in reads]
    assert reads[0]["responseLength"] < 100 * 200


async def test_an_event_that_comes_back_as_it_reads_is_a_duplicate(dao: MongoClickstreamDao) -> None:
    """An event whose time the server has set, sent back as read, is a duplicate, and with other content is not."""
    unset = SessionEvent(session_id="s", event_id="e", object_id="o")
    await dao.register_session(session("s"))
    await dao.push_events([unset])
    found = await dao.get_session("s")
    assert found is not None
    read = found.events[0]
    sent = [unset, read, read.model_copy(update={"object_id": "other"}), unset]
    for events in (sent, [*sent, read]):  # whichever form of it comes last
        told = await dao.push_events(events)

        assert (len(events) - 1, [2]) == (told.duplicates, [failure.index for failure in told.failures])


@pytest.mark.parametrize("again", [config(), atomic(), config(dry_run=True)], ids=["item", "session", "dry run"])
async def test_the_widest_events_are_known_again(dao: MongoClickstreamDao, again: ImportConfig) -> None:
    """As many events as a chunk may have, with ids as wide as they fit into a message, come again as duplicates."""
    wide = "\U0001f600"
    sent = [event("", f"{number:04}" + wide * 180) for number in range(9_999)]
    whole = ImportItem(session(wide * 256), sent)
    await imported(dao, config(), [whole])
    _, summary = await imported(dao, again, [whole])

    assert (1, 9_999) == (summary.sessions.duplicates, summary.events.duplicates)


@pytest.mark.parametrize("again", [config(), atomic(), config(dry_run=True)], ids=["item", "session", "dry run"])
async def test_the_widest_ids_that_can_be_set_are_known_again(
    mongodb_uri: str, database: str, again: ImportConfig
) -> None:
    """Events with ids as wide as they can be set to, as many as fit into a message, come again as duplicates."""
    wide = "\U0001f600"
    sent = [event("", f"{number:04}" + wide * (ID_CHARS_MOST - 4)) for number in range(2_000)]
    whole = ImportItem(session(wide * ID_CHARS_MOST), sent)
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database, id_chars_max=ID_CHARS_MOST)) as dao:
        await imported(dao, config(), [whole])
        _, summary = await imported(dao, again, [whole])

    assert (1, 2_000) == (summary.sessions.duplicates, summary.events.duplicates)


@pytest.mark.parametrize("mode", ImportMode)
async def test_a_dry_run_does_not_bring_large_sessions_into_memory(dao: MongoClickstreamDao, mode: ImportMode) -> None:
    """A dry run over 24 MB of stored sessions and their events tells what becomes of them, and holds less than that."""
    large = [ImportItem(session(f"s{n}", "x" * 200_000), [event(f"s{n}", "e", "x" * 40_000)]) for n in range(100)]
    small = [item(f"s{n}", 1) for n in range(100)]
    for at in range(0, 100, 20):
        await imported(dao, config(), large[at : at + 20])
    with growth_max() as grown:
        _, summary = await imported(dao, atomic(mode=mode, dry_run=True), small)

    conflicts = 0 if mode is ImportMode.REPLACE_EXISTING else 100
    assert (100 - conflicts, conflicts) == (summary.sessions.inserted, summary.sessions.conflicts)
    assert grown[0] < 24 * 1000 * 1000


async def test_calls_for_large_sessions_are_answered_in_smaller_groups(dao: MongoClickstreamDao, stored: Any) -> None:
    """Registrations of known sessions of 24 MB are told of these, and no read brings more than an answer holds."""
    large = [session(f"s{n}", "x" * 400_000) for n in range(60)]
    for at in range(0, 60, 10):
        await together(dao.register_session(one) for one in large[at : at + 10])
    sent = [session(f"s{n}") for n in range(60)] + [session("new 1"), session("new 2")]
    async with reads_of(stored, "sessions") as reads:
        told = await together(dao.register_session(one) for one in sent)

    assert [WriteOutcome.CONFLICT] * 60 + [WriteOutcome.INSERTED] * 2 == [one.outcome for one in told]
    assert large == [one.session.session for one in told[:60]]
    assert [61, 62] == [one.session.session_number for one in told[60:]]
    assert "query" in {read["op"] for read in reads}
    assert "getmore" not in {read["op"] for read in reads}


async def test_an_import_over_large_sessions_is_stored_in_smaller_groups(dao: MongoClickstreamDao, stored: Any) -> None:
    """Sessions that replace 24 MB of others get their numbers in order; no read brings more than an answer holds."""
    large = [ImportItem(session(f"s{n}", "x" * 400_000)) for n in range(60)]
    for at in range(0, 60, 10):
        await imported(dao, config(), large[at : at + 10])
    async with reads_of(stored, "sessions") as reads:
        _, summary = await imported(
            dao, atomic(mode=ImportMode.REPLACE_EXISTING), [item(f"s{n}", 1) for n in range(60)]
        )
    numbers = {found["_id"]: found["session_number"] async for found in stored.sessions.find()}

    assert (60, 60) == (summary.sessions.inserted, summary.events.inserted)
    assert {f"s{n}": 61 + n for n in range(60)} == numbers
    assert "getmore" not in {read["op"] for read in reads}
