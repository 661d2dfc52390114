"""Calls that arrive together share the database's work, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from pymongo import AsyncMongoClient

from clickstream import (
    ClickstreamError,
    DeadlineExceeded,
    ImportItem,
    MessageTooLarge,
    Overloaded,
    PushResult,
    Registration,
    Session,
    SessionEvent,
    SessionWithEvents,
    ShuttingDown,
    StorageUnavailable,
)
from clickstream.wire import session_to_pb
from clickstream_server.clock import now_micros
from clickstream_server.config import Settings
from clickstream_server.deadlines import deadline
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.errors import UnexpectedDriverError
from clickstream_server.storage.mongo.from_pb import session_document
from clickstream_server.storage.mongo.gatherer import Gatherer
from clickstream_server.storage.mongo.getter import Getter
from clickstream_server.storage.mongo.numbering import Intent, SessionWrite
from clickstream_server.storage.mongo.pusher import Pusher
from clickstream_server.storage.mongo.registrar import Registrar
from clickstream_server.storage.observer import StorageObserver
from harness import PATIENCE_S, eventually, opened_dao
from importing import atomic, imported

CALLS = 60
T = TypeVar("T")


@pytest.fixture
async def stored(mongodb_uri: str, database: str) -> AsyncIterator[Any]:
    """The database itself."""
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        yield mongo[database]


def event(session_id: str, event_id: str, object_id: str = "o", **more: Any) -> SessionEvent:
    return SessionEvent(session_id=session_id, event_id=event_id, object_id=object_id, **more)


async def together(calls: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    """What each comes to: the first goes alone, and the others form a group behind it."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*calls, return_exceptions=True)


async def fill(dao: MongoClickstreamDao, session_id: str, count: int) -> None:
    await dao.register_session(Session(session_id=session_id))
    for start in range(0, count, 5_000):
        await dao.push_events([event(session_id, f"{n:06}") for n in range(start, min(count, start + 5_000))])


async def waiting(gatherer: Gatherer[Any, Any], count: int) -> None:
    """Until one call is in flight and so many others wait."""
    async with asyncio.timeout(PATIENCE_S):
        while gatherer.waiting[0] < count:  # noqa: ASYNC110  # a moment that cannot be seen from outside
            await asyncio.sleep(0)


async def test_pushes_share_inserts(dao: MongoClickstreamDao, stored: Any) -> None:
    """Pushes that arrive together are a few inserts, however many they are."""
    await stored.command("profile", 2)
    results = await together(dao.push_events([event("s", f"{n}-{m}") for m in range(10)]) for n in range(CALLS))
    await stored.command("profile", 0)
    inserts = await stored["system.profile"].count_documents({"op": "insert", "ns": f"{stored.name}.events"})

    assert [PushResult(inserted=10)] * CALLS == results
    assert 1 <= inserts <= CALLS / 10
    assert CALLS * 10 == await stored.events.count_documents({})


async def test_each_push_gets_its_own_account(dao: MongoClickstreamDao) -> None:
    """Pushes of one group that carry the same events are told what they would be if they came one after the other."""
    first = dao.push_events([event("s", "other")])
    group = [
        [event("s", "a"), event("s", "b")],
        [event("s", "c"), event("s", "a"), event(" ", "rejected")],
        [event("s", "b", "another object"), event("s", "d")],
        [event("s", "e"), event("s", "e"), event("s", "e", "another object")],
        [event("s", "b"), event("s", "d", "another object"), event("s", "d")],
    ]
    _, *results = await together([first, *(dao.push_events(events) for events in group)])
    told = [
        (one.inserted, one.duplicates, one.conflicts, one.rejected, [(f.index, f.outcome) for f in one.failures])
        for one in results
        if isinstance(one, PushResult)
    ]

    assert [
        (2, 0, 0, 0, []),
        (1, 1, 0, 1, [(2, "REJECTED")]),
        (1, 0, 1, 0, [(0, "CONFLICT")]),
        (1, 1, 1, 0, [(2, "CONFLICT")]),
        (0, 2, 1, 0, [(1, "CONFLICT")]),
    ] == told


async def test_an_event_that_cannot_be_stored_fails_its_push_alone(dao: MongoClickstreamDao, stored: Any) -> None:
    """Where the database refuses one event of a group, the other pushes are told what was stored of theirs."""
    await stored.command("collMod", "events", validator={"object_id": {"$ne": "refused"}})
    pushes = [[event("s", f"{n}-{m}", "refused" if (n, m) == (20, 1) else "o") for m in range(3)] for n in range(CALLS)]
    results = await together(map(dao.push_events, pushes))

    assert isinstance(results.pop(20), UnexpectedDriverError)
    assert [PushResult(inserted=3)] * (CALLS - 1) == results


async def test_a_session_that_cannot_be_stored_fails_alone(dao: MongoClickstreamDao, stored: Any) -> None:
    """Where the database refuses one session of a group, the others get numbers without a gap."""
    await stored.command("collMod", "sessions", validator={"user_id": {"$ne": "refused"}})
    sessions = [Session(session_id=f"s{n}", user_id="refused" if n == 20 else "u") for n in range(CALLS)]
    results = await together(map(dao.register_session, sessions))

    assert isinstance(results.pop(20), UnexpectedDriverError)
    numbers = [one.session.session_number for one in results if isinstance(one, Registration)]
    assert list(range(1, CALLS)) == sorted(numbers)


async def test_sessions_that_grow_in_the_database_are_stored(
    dao: MongoClickstreamDao, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups whose content takes six times its bytes in MongoDB, and more than a command may have, are stored whole."""
    groups = []

    async def counted(self: Registrar, group: list[SessionWrite]) -> Any:
        groups.append(len(group))
        return await work(self, group)

    work = Registrar.work
    monkeypatch.setattr(Registrar, "work", counted)
    sent = session_to_pb(Session(session_id="s", search_query=[1] * 100_000))  # 0.2 MB of JSON, 1.1 MB of BSON
    document, size = session_document(sent, now_micros=now_micros(), limits=Limits())
    calls = [SessionWrite(document | {"_id": f"s{n}"}, content_bytes=size, intent=Intent.REGISTER) for n in range(17)]
    await dao._registrar.submit_all(calls)

    assert [17] == groups
    assert 17 == await stored.sessions.count_documents({"search_query.99999": 1})


async def test_sessions_whose_events_grow_in_the_database_are_stored(dao: MongoClickstreamDao) -> None:
    """So is a session with events whose content takes six times its bytes in MongoDB, if they stand or fall with it."""
    events = [event("s", f"{n}", meta={"list": [1] * 25_000}) for n in range(70)]  # 3.5 MB of JSON, 19 MB of BSON
    _, summary = await imported(dao, atomic(), [ImportItem(Session(session_id="s"), events)])

    assert (1, 70) == (summary.sessions.inserted, summary.events.inserted)


@pytest.mark.parametrize(("bound", "most"), [("waiting_max", 10), ("waiting_bytes_max", 1_000)])
async def test_pushes_that_wait_are_bounded(
    dao: MongoClickstreamDao, stored: Any, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Past the bounds pushes are refused with OVERLOADED and a time to wait; the others are stored."""
    monkeypatch.setattr(Pusher, bound, most)
    results = await together(dao.push_events([event("s", f"{n}")]) for n in range(CALLS))
    refused = [one for one in results if isinstance(one, ClickstreamError)]
    count = await stored.events.count_documents({})

    assert CALLS - len(refused) == count >= 10
    assert {Overloaded} == {type(one) for one in refused}
    assert all(one.retry_after_s for one in refused)


async def test_new_sessions_are_not_looked_up(dao: MongoClickstreamDao, stored: Any) -> None:
    """Registering new sessions asks for none; a known one is found out by its key, and costs no number."""

    async def look_ups(*names: str) -> tuple[int, list[tuple[str, int]]]:
        await stored.command("profile", 2)
        told = [await dao.register_session(Session(session_id=name)) for name in names]
        await stored.command("profile", 0)
        count = await stored["system.profile"].count_documents({"op": "query", "ns": f"{stored.name}.sessions"})
        await stored["system.profile"].drop()
        return count, [(one.outcome, one.session.session_number) for one in told]

    assert (0, [("INSERTED", 1), ("INSERTED", 2)]) == await look_ups("a", "b")
    assert (2, [("DUPLICATE", 1), ("DUPLICATE", 2)]) == await look_ups("a", "b")  # the second because of the first
    assert (1, [("INSERTED", 3), ("INSERTED", 4)]) == await look_ups("c", "d")
    assert 4 == (await dao.list_batches()).batches[0].session_counter


async def test_gets_share_queries(dao: MongoClickstreamDao, stored: Any) -> None:
    """Calls that ask for sessions together are a few queries, and each gets its own session with its own events."""
    for n in range(CALLS):
        await fill(dao, f"s{n}", n % 4)
    await stored.command("profile", 2)
    results = await together(dao.get_session(f"s{n}" if n % 7 else "unknown") for n in range(CALLS))
    await stored.command("profile", 0)
    queries = await stored["system.profile"].count_documents({"op": "query"})
    told = [one and (one.session.session_id, len(one.events), one.event_count) for one in found(results)]

    assert [(f"s{n}", n % 4, n % 4) if n % 7 else None for n in range(CALLS)] == told
    assert 2 <= queries <= CALLS / 5


def found(results: list[SessionWithEvents | BaseException | None]) -> list[SessionWithEvents | None]:
    assert not [one for one in results if isinstance(one, BaseException)]
    return [one for one in results if not isinstance(one, BaseException)]


@pytest.mark.parametrize("size", [99, 100, 101, 1_800, 1_990, 2_000, 2_001])
async def test_a_group_gets_what_each_would_get_alone(dao: MongoClickstreamDao, size: int) -> None:
    """Sessions with many events and without, in any order and with any limit, come with just what was asked for."""
    sizes = {"a": 3, "b": size, "c": 0, "d": 100, "ä": 7, "\U0001f600": size, "\uffff": 2}
    for session_id, count in sizes.items():
        await fill(dao, session_id, count)
    asked = [(session_id, limit) for limit in (100, 0, 1, None, 7, 101) for session_id in sizes]
    results = found(await together(dao.get_session(name, events_limit=limit) for name, limit in asked))
    expected = [
        (name, [f"{n:06}" for n in range(sizes[name] if limit is None else min(limit, sizes[name]))], sizes[name])
        for name, limit in asked
    ]

    assert expected == [
        (one.session.session_id, sorted(e.event_id for e in one.events), one.event_count) for one in results if one
    ]


async def test_a_session_that_is_too_large_fails_its_own_call(dao: MongoClickstreamDao) -> None:
    """Sessions with more bytes of events than may be held are refused, and those read with them are not."""
    for n in range(20):
        await fill(dao, f"s{n:02}", 1)
    await dao.register_session(Session(session_id="s10-large"))
    for start in range(0, 300, 100):
        large = [event("s10-large", f"{start + n}", meta={"text": "x" * 60_000}) for n in range(100)]
        await dao.push_events(large)
    asked = [f"s{n:02}" for n in range(20)]
    asked[10:10] = ["s10-large"]
    results = await together(dao.get_session(name, events_limit=290 if name == "s10-large" else 5) for name in asked)
    few = await together(dao.get_session(name, events_limit=100) for name in asked)

    assert isinstance(results.pop(10), MessageTooLarge)
    assert [1] * 20 == [one.event_count for one in found(results) if one]
    assert [1] * 10 + [300] + [1] * 10 == [one.event_count for one in found(few) if one]


async def test_sessions_too_large_to_be_held_together_are_read(dao: MongoClickstreamDao) -> None:
    """A group whose sessions are more than one answer of the database holds is read in parts."""
    names = [f"s{n}" for n in range(30)]
    for name in names:
        await dao.register_session(Session(session_id=name, search_query="x" * 900_000))
    results = found(await together(map(dao.get_session, names)))

    assert names == [one.session.session_id for one in results if one]


@pytest.mark.parametrize("leaving", ["is cancelled", "has no time left"])
async def test_who_leaves_takes_nobody_along(
    dao: MongoClickstreamDao, stored: Any, leaving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that leave do not end the group for the others; of those that still wait nothing is stored."""
    monkeypatch.setattr(Pusher, "group_max", 3)
    await fill(dao, "s", 3)

    async def call(n: int) -> Any:
        pushed = dao.push_events([event("pushed", f"{n}")])
        if leaving == "is cancelled" or n % 2:
            return (await asyncio.gather(pushed, dao.get_session("s")))[0]
        with deadline(0.000_1):
            return (await asyncio.gather(pushed, dao.get_session("s")))[0]

    calls = [asyncio.create_task(call(n)) for n in range(CALLS)]
    if leaving == "is cancelled":
        await waiting(dao._pusher, 2)
        for leaver in calls[::2]:
            leaver.cancel()
    results = await together(calls)
    left = {type(one) for one in results[::2]} - {PushResult}
    expected = {asyncio.CancelledError} if leaving == "is cancelled" else {DeadlineExceeded, StorageUnavailable}

    assert [PushResult(inserted=1)] * (CALLS // 2) == results[1::2]
    assert (0, 0) == dao._pusher.waiting == dao._getter.waiting
    assert left
    assert CALLS // 2 <= await stored.events.count_documents({"_id.session_id": "pushed"}) < CALLS
    assert left <= expected


async def test_at_the_stop_those_that_wait_are_finished(dao: MongoClickstreamDao) -> None:
    """Calls that wait when the storage is closed are answered; later ones are told that the server stops."""
    await fill(dao, "s", 3)
    calls = [asyncio.create_task(dao.push_events([event("s", f"late {n}")])) for n in range(CALLS)]
    reads = [asyncio.create_task(dao.get_session("s")) for _ in range(CALLS)]
    await waiting(dao._getter, 2)
    async with asyncio.timeout(PATIENCE_S):
        await dao.close()
    results, sessions = await together(calls), found(await together(reads))

    assert [PushResult(inserted=1)] * CALLS == results
    assert ["s"] * CALLS == [one.session.session_id for one in sessions if one]
    for refused in (dao.push_events([event("s", "too late")]), dao.get_session("s")):
        with pytest.raises(ShuttingDown):
            await refused


@pytest.mark.parametrize("gatherer", [Pusher, Getter])
async def test_many_more_than_fit_into_a_group_are_served(
    dao: MongoClickstreamDao, gatherer: type[Gatherer[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small a group is, all that wait are served, in groups one after the other."""
    monkeypatch.setattr(gatherer, "group_max", 7)
    await fill(dao, "s", 3)
    pushed = await together(dao.push_events([event("pushed", f"{n}")]) for n in range(CALLS))
    read = found(await together(dao.get_session("s") for _ in range(CALLS)))

    assert [PushResult(inserted=1)] * CALLS == pushed
    assert [3] * CALLS == [one.event_count for one in read if one]


class Again(StorageObserver):
    """Knows how often transactions were started again, and how many groups are done."""

    count = 0
    groups_done = 0

    def transaction_again(self) -> None:
        self.count += 1

    @contextmanager
    def group(self, work: Any, calls: Any) -> Iterator[None]:
        yield
        self.groups_done += 1


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_what_nobody_waits_for_is_not_tried_again(
    mongodb_uri: str, database: str, stored: Any, driver: Any
) -> None:
    """An update whose caller has left does not come behind the newer one that another server has stored meanwhile.

    It would put the content back that its caller has replaced since, and was told to be stored.
    """
    observer = Again()
    settings = Settings(mongodb_database=database, mongodb_driver=driver)
    async with opened_dao(mongodb_uri, settings, observer) as dao, opened_dao(mongodb_uri, settings) as another:
        for session_id in ("s", "other"):
            await dao.register_session(Session(session_id=session_id, search_query="first"))
        async with stored.client.start_session() as session:
            await session.start_transaction()
            await stored.batches.update_one({}, {"$inc": {"session_counter": 1}}, session=session)
            await stored.sessions.update_one({"_id": "s"}, {"$set": {"search_query": "newest"}}, session=session)

            done_before = observer.groups_done

            async def met() -> bool:
                return observer.count > 0

            async def given_up() -> bool:
                return observer.groups_done > done_before

            leaving = asyncio.create_task(dao.update_session(Session(session_id="s", search_query="older")))
            await eventually(met, "the update meets the other server's")
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await eventually(given_up, "the try under way meets it, too, and is the last")
            await session.commit_transaction()

        done = await dao.update_session(Session(session_id="other", search_query="second"))
        found = await another.get_session("s")

    assert 4 == done.session_number
    assert found is not None
    assert "newest" == found.session.search_query
