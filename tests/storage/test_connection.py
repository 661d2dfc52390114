"""What the connection to MongoDB is made with: pool sizes and concerns, from settings and from the URI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from commands import Commands
from pymongo import AsyncMongoClient
from pymongo.lock import _async_cond_wait, _async_create_condition, _async_create_lock

from clickstream import Session, SessionEvent
from clickstream.errors import StorageUnavailable
from clickstream.transfer import ImportAtomicity, ImportChunk, ImportConfig, ImportItem
from clickstream_server.config import Settings, load_settings
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.failures import StartFailure
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import DriverName, close, connect, maybe_await
from clickstream_server.storage.mongo.options import MongoOptions
from harness import eventually, opened_dao

DRIVERS = get_args(DriverName)


def with_options(uri: str, options: str) -> str:
    return f"{uri}{'&' if '?' in uri else '/?'}{options}"


async def made_with(uri: str, **settings: Any) -> tuple[int, int, dict[str, Any], str | None]:
    """Pool sizes at most and at least, write concern and read concern of a connection with these settings."""
    client = connect(uri, "pymongo", Settings(**settings).mongo_options)
    pool = client.options.pool_options
    found = pool.max_pool_size, pool.min_pool_size, client.write_concern.document, client.read_concern.level
    await client.close()
    return found


DURABLE = {"w": "majority", "j": True}


@pytest.mark.parametrize(
    ("in_uri", "settings", "expected"),
    [
        ("", {}, (50, 10, DURABLE, "majority")),
        ("w=majority&journal=true&retryWrites=true", {}, (50, 10, DURABLE, "majority")),
        ("maxPoolSize=7", {}, (7, 7, DURABLE, "majority")),
        ("maxpoolsize=70&MINPOOLSIZE=60", {}, (70, 60, DURABLE, "majority")),
        ("maxPoolSize=0", {}, (0, 10, DURABLE, "majority")),
        ("", {"mongodb_max_pool_size": 3}, (3, 3, DURABLE, "majority")),
        ("minPoolSize=2", {"mongodb_max_pool_size": 3}, (3, 2, DURABLE, "majority")),
        ("maxPoolSize=3", {"mongodb_max_pool_size": 3, "mongodb_min_pool_size": 0}, (3, 0, DURABLE, "majority")),
        ("w=two%20cities", {}, (50, 10, {"w": "two cities", "j": True}, "majority")),
        ("", {"mongodb_write_concern": "all"}, (50, 10, {"w": "all", "j": True}, "majority")),
        ("readConcernLevel=linearizable", {}, (50, 10, DURABLE, "linearizable")),
        ("", {"mongodb_read_concern": "linearizable"}, (50, 10, DURABLE, "linearizable")),
    ],
)
async def test_the_uri_counts_before_the_defaults(
    in_uri: str, settings: dict[str, Any], expected: tuple[object, ...]
) -> None:
    """What the URI says counts where no setting was given, and everything is journaled."""
    assert expected == await made_with(with_options("mongodb://localhost", in_uri), **settings)


@pytest.mark.parametrize(("in_uri", "expected"), [("", (3.0, 2.0)), ("connectTimeoutMS=7000", (7.0, 2.0))])
async def test_a_member_that_says_nothing_is_given_up_soon(in_uri: str, expected: tuple[float, float]) -> None:
    """A member is given up when it says nothing for five seconds, unless the URI says how long."""
    client = connect(with_options("mongodb://localhost", in_uri), "pymongo")
    found = client.options.pool_options.connect_timeout, client._topology_settings.heartbeat_frequency
    await client.close()

    assert expected == found


@pytest.mark.parametrize(
    ("in_uri", "settings", "named"),
    [
        ("w=1", {}, "w=1"),
        ("w=3", {}, "w=3"),
        ("w=0", {}, "w=0"),
        ("journal=false", {}, "journal=false"),
        ("readConcernLevel=local", {}, "readConcernLevel=local"),
        ("readPreference=secondaryPreferred", {}, "readPreference=secondaryPreferred"),
        ("wTimeoutMS=500", {}, "CLICKSTREAM_STORAGE_TIMEOUT_S"),
        ("maxPoolSize=20", {"mongodb_max_pool_size": 30}, "CLICKSTREAM_MONGODB_MAX_POOL_SIZE"),
        ("w=all", {"mongodb_write_concern": "majority"}, "CLICKSTREAM_MONGODB_WRITE_CONCERN"),
        ("maxPoolSize=20", {"mongodb_min_pool_size": 30}, "minPoolSize"),
    ],
)
async def test_what_breaks_a_promise_or_a_setting_is_refused(
    mongodb_uri: str, database: str, in_uri: str, settings: dict[str, Any], named: str
) -> None:
    """A URI that would weaken the promises, or contradicts a setting, keeps the server from starting, and is named."""
    with pytest.raises(StartFailure) as raised:
        async with opened_dao(with_options(mongodb_uri, in_uri), Settings(mongodb_database=database, **settings)):
            pass

    assert "CLICKSTREAM_MONGODB_URI" in str(raised.value)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONGODB_MAX_POOL_SIZE", "0"),
        ("MONGODB_MIN_POOL_SIZE", "51"),
        ("MONGODB_WRITE_CONCERN", "1"),
        ("MONGODB_WRITE_CONCERN", " "),
        ("MONGODB_READ_CONCERN", "local"),
    ],
)
def test_a_setting_that_would_is_refused_as_well(name: str, value: str) -> None:
    """Pool sizes that contradict each other and concerns that are too weak are refused by the setting's name."""
    with pytest.raises(StartFailure, match=f"CLICKSTREAM_{name}"):
        load_settings({}, {f"CLICKSTREAM_{name}": value})


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_least_connections_are_kept(mongodb_uri: str, database: str, driver: DriverName) -> None:
    """MongoDB has at least as many connections of ours as the setting asks for, soon after the start."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, mongodb_min_pool_size=43)
    async with AsyncMongoClient(mongodb_uri) as client, opened_dao(mongodb_uri, settings):

        async def connected() -> bool:
            stages = [{"$currentOp": {"idleConnections": True}}, {"$match": {"appName": "clickstream"}}]
            return len([found async for found in await client.admin.aggregate(stages)]) >= 43

        await eventually(connected, "43 connections")


WRITES = {"insert", "update", "findAndModify", "createIndexes", "create"}


async def chunks() -> AsyncIterator[ImportChunk]:
    yield ImportChunk(1, [ImportItem(Session(session_id="i"), [SessionEvent(session_id="i", object_id="o")])])


async def use(dao: MongoClickstreamDao, commands: Commands) -> None:
    """Store and read in every manner."""

    async def watches() -> bool:
        return any("$changeStream" in str(sent.get("pipeline")) for sent in commands.sent)

    await dao.open()
    batch_id = (await dao.register_session(Session(session_id="s"))).session.batch_id
    for _ in range(2):
        await dao.push_events([SessionEvent(session_id="s", event_id="e", object_id="o")])
    async with aclosing(dao.get_batch_pages(batch_id, follow=True)) as pages:
        await anext(pages)
        await eventually(watches, "the batch is watched")
    for dry_run in (True, False):
        config = ImportConfig(import_id="i", atomicity=ImportAtomicity.PER_SESSION, dry_run=dry_run)
        async with aclosing(dao.import_sessions(config, chunks())) as answers:
            assert [_ async for _ in answers]
    await dao.get_session("s", events_limit=1)
    await dao.mark_session_irrelevant("s")
    await dao.release_batch("r")


@pytest.fixture(scope="module")
async def tagged_uri(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A replica set that knows the write concern «everyone»."""
    mongod = EmbeddedMongo(tmp_path_factory.mktemp("tagged"))
    uri = await mongod.start()
    async with AsyncMongoClient(uri) as client:
        config = (await client.admin.command("replSetGetConfig"))["config"]
        config["members"][0]["tags"] = {"node": "a"}
        config["settings"]["getLastErrorModes"] = {"everyone": {"node": 1}}
        config["version"] += 1
        await client.admin.command("replSetReconfig", config)
    yield uri
    await mongod.stop()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("write", "read"), [("majority", "majority"), ("everyone", "linearizable")])
async def test_everything_is_written_and_read_with_the_concerns(
    tagged_uri: str, driver: DriverName, write: str, read: Any
) -> None:
    """Every write and every commit carries the write concern, every read outside of snapshots the read concern."""
    commands = Commands()
    options = MongoOptions(write_concern=write, read_concern=read)
    client = connect(tagged_uri, driver, options, listeners=[commands])
    dao = MongoClickstreamDao(client, f"test_{driver}_{write}")
    try:
        await use(dao, commands)
    finally:
        await dao.close()
        await maybe_await(client.close())

    outside = [sent for sent in commands.sent if "txnNumber" not in sent or "startTransaction" not in sent]
    written = [sent for sent in outside if sent["name"] in WRITES and sent.get("autocommit") is not False]
    commits = [sent for sent in commands.sent if sent["name"] == "commitTransaction"]
    reads = [
        sent
        for sent in outside
        if sent["name"] in {"find", "aggregate"} and sent["$db"] != "admin" and sent.get("autocommit") is not False
    ]
    watches = [sent for sent in reads if "$changeStream" in str(sent.get("pipeline"))]
    assert {"insert", "findAndModify", "createIndexes", "create"} <= {sent["name"] for sent in written}
    assert commits
    assert [{"w": write, "j": True}] * len(written + commits) == [sent["writeConcern"] for sent in written + commits]
    assert watches
    assert {"majority"} == {sent["readConcern"]["level"] for sent in watches}
    assert {read, "snapshot"} == {sent["readConcern"]["level"] for sent in reads if sent not in watches}


async def test_an_unknown_write_concern_is_refused(tagged_uri: str) -> None:
    """A name that the replica set does not know keeps the server from starting."""
    settings = Settings(mongodb_database="test_unknown", mongodb_write_concern="nobody")
    with pytest.raises(StartFailure, match="CLICKSTREAM_MONGODB_WRITE_CONCERN"):
        async with opened_dao(tagged_uri, settings):
            pass


@pytest.mark.parametrize("driver", DRIVERS)
async def test_connections_made_while_the_member_recovers_are_made_anew(tmp_path: Path, driver: DriverName) -> None:
    """Connections made while their member could not be read do not fail transactions and snapshots for ever."""
    async with AsyncExitStack() as stack:
        mongod = EmbeddedMongo(tmp_path)
        uri = await mongod.start()
        stack.push_async_callback(mongod.stop)
        admin = (await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](uri))).admin
        await admin.command("replSetStepDown", 60, force=True)
        await admin.command("replSetMaintenance", True)
        client = connect(uri, driver)
        stack.push_async_callback(close, client)
        dao = MongoClickstreamDao(client, "test")
        stack.push_async_callback(dao.close)

        async def registered() -> Any:
            with suppress(StorageUnavailable):
                return await dao.register_session(Session(session_id="s"))

        assert not await registered()
        await admin.command("replSetMaintenance", False)
        await admin.command("replSetFreeze", 0)
        done = await eventually(registered, "the member takes registrations")
        (page,) = [page async for page in dao.get_batch_pages(done.session.batch_id)]

    assert 1 == page.last_number


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_index_is_built_however_long_it_takes(
    mongodb_uri: str, database: str, driver: DriverName, caplog: pytest.LogCaptureFixture
) -> None:
    """MongoDB is given a day for an index that is missing over data, not the time of a step; it is told, too."""
    commands = Commands()
    connection = connect(mongodb_uri, driver, listeners=[commands])
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await MongoClickstreamDao(connection, database).open()
        events = mongo[database].events
        await events.insert_one({"_id": {"session_id": "s", "event_id": "e"}})
        await events.drop_index("by_session")
        commands.sent.clear()
        await MongoClickstreamDao(connection, database).open()
        found = await events.index_information()
    await close(connection)
    (building,) = [sent for sent in commands.sent if sent.get("createIndexes") == "events"]

    assert "by_session" in found
    assert building["maxTimeMS"] > 23 * 3600 * 1000
    assert ["indexes are built over what is stored, which may take long: events.by_session"] == caplog.messages


@pytest.mark.parametrize("driver", DRIVERS)
async def test_events_are_counted_in_one_answer(mongodb_uri: str, database: str, driver: DriverName) -> None:
    """The events of a page's sessions are counted in one answer, which leaves no cursor open."""
    commands = Commands()
    connection = connect(mongodb_uri, driver, listeners=[commands])
    dao = MongoClickstreamDao(connection, database)
    await dao.open()
    names = [f"s{number}" for number in range(500)]
    await dao.push_events([SessionEvent(session_id=name, event_id="e", object_id="o") for name in names])
    commands.sent.clear()
    found = await dao._events.of_sessions(names, limit=0, bytes_max=0, session=None)
    asked = [sent["name"] for sent in commands.sent]
    await dao.close()
    await close(connection)

    assert dict.fromkeys(names, 1) == {name: one.count for name, one in found.items()}
    assert ["aggregate"] == asked


@pytest.mark.parametrize("driver", DRIVERS)
async def test_batches_are_listed_in_one_answer(mongodb_uri: str, database: str, driver: DriverName) -> None:
    """A page of batches comes in one answer, also a large one, which leaves no cursor open."""
    commands = Commands()
    connection = connect(mongodb_uri, driver, listeners=[commands])
    dao = MongoClickstreamDao(connection, database)
    await dao.open()
    stored = [
        {"_id": f"b{n}", "status": "RELEASED", "session_counter": 0, "created_at": n, "updated_at": n}
        for n in range(1_001)
    ]
    await maybe_await(connection[database].batches.insert_many(stored))
    commands.sent.clear()
    found = await dao.list_batches(page_size=1_000)
    asked = [sent["name"] for sent in commands.sent]
    await dao.close()
    await close(connection)

    assert (1_000, True) == (len(found.batches), bool(found.next_page_token))
    assert ["find"] == asked


async def test_who_waits_for_a_connection_leaves_no_lock_behind(mongodb_uri: str) -> None:
    """Cancelled twice while it takes the pool's lock again, a wait for a connection gives the lock back at its end.

    The pool's own parts: a pool that is locked for good shows only by a database that never answers again.
    """
    client = connect(mongodb_uri, "pymongo")
    lock = _async_create_lock()
    freed = _async_create_condition(lock)

    async def wait() -> None:
        async with freed:
            await _async_cond_wait(freed, 60.0)

    async def waits() -> bool:
        return bool(freed._waiters)

    waiting = asyncio.create_task(wait())
    await eventually(waits, "it waits")
    async with lock:
        for _ in range(2):
            waiting.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert lock.locked()
        assert not waiting.done()
    with suppress(asyncio.CancelledError):
        await waiting

    assert not lock.locked()
    await client.close()
