"""Calls whose caller has no time left, or has gone away, leave nothing behind: while MongoDB stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from raw_calls import METHODS, needing_the_database

from clickstream import ClickstreamClient, ExportFilter, Session
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.storage.mongo import paging
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import DriverName, close, connect
from clickstream_server.storage.mongo.options import MongoOptions
from clickstream_server.storage.mongo.raw_batches import batches_of
from harness import PATIENCE_S, eventually, freeze, group_commit_runs, mongod_pid, served

# PyMongo leaves the closing of a connection to the garbage collector if it is cancelled while it opens one.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DATABASE = "left_behind"
Code = grpc.StatusCode


class Mongo:
    """A mongod that can be made to stand still."""

    def __init__(self, uri: str, pid: int) -> None:
        self.uri = uri
        self._pid = pid

    async def freeze(self) -> None:
        await freeze(self._pid)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    async def ids(self) -> set[str]:
        async with AsyncMongoClient(self.uri) as client:
            return {found["_id"] async for found in client[DATABASE].sessions.find()}

    async def reading_cursors(self) -> list[str]:
        """The collections that open cursors read. (Those of change streams are not among them.)"""
        async with AsyncMongoClient(self.uri) as client:
            operations = await client.admin.aggregate([{"$currentOp": {"idleCursors": True}}])
            found = [one async for one in operations if one["ns"].startswith(f"{DATABASE}.") and "cursor" in one]
            return [one["ns"] for one in found if "$changeStream" not in str(one["cursor"].get("originatingCommand"))]


@pytest.fixture(scope="module")
async def mongo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mongo]:
    folder = tmp_path_factory.mktemp("left-behind")
    mongod = EmbeddedMongo(folder)
    uri = await mongod.start()
    found = Mongo(uri, mongod_pid(folder))
    yield found
    found.thaw()
    await mongod.stop()


@pytest.fixture(params=["motor", "pymongo"])
async def client(request: pytest.FixtureRequest, mongo: Mongo) -> AsyncIterator[ClickstreamClient]:
    """A client of a server that takes on one call and one stream, and would wait for MongoDB for ever."""
    async with served(
        mongo.uri,
        DATABASE,
        calls_max=1,
        streams_max=1,
        storage_timeout_s=3600,
        mongodb_driver=request.param,
    ) as client:
        yield client
        mongo.thaw()


async def none_open(mongo: Mongo) -> bool:
    return await mongo.reading_cursors() == []


@asynccontextmanager
async def channel_to(client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(client.target, options=[("grpc.enable_retries", 0)]) as channel:
        yield channel


def start(channel: grpc.aio.Channel, name: str, messages: list[Any], timeout: float) -> Any:
    """The call; its request is sent if it has one."""
    method = METHODS[name]
    path = f"/{method.containing_service.full_name}/{name}"
    if method.client_streaming:
        return channel.stream_stream(path)(timeout=timeout)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    return kind(path)(messages[0].SerializeToString(), timeout=timeout)


async def code_of(call: Any, messages: Sequence[Any] = ()) -> Code:
    """What the call ends with, or OK once it was answered; the messages are sent before that if they are a stream."""
    try:
        if isinstance(call, grpc.aio.StreamStreamCall):
            for message in messages:
                await call.write(message.SerializeToString())
        await (call.read() if hasattr(call, "read") else call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    except asyncio.CancelledError:
        return Code.CANCELLED
    return Code.OK


async def test_each_call_ends_with_its_deadline(client: ClickstreamClient, mongo: Mongo) -> None:
    """With MongoDB frozen each RPC ends at its deadline of 0.2 s, and the server has room for the next one then."""
    batch_id = (await client.register_session(Session(session_id="known"))).session.batch_id
    async with channel_to(client) as channel:
        await mongo.freeze()
        ended = {}
        for name, messages in needing_the_database(batch_id).items():

            async def tried(name: str = name, messages: list[Any] = messages) -> Code | None:
                code = await code_of(start(channel, name, messages, 0.2), messages)
                return None if code is Code.RESOURCE_EXHAUSTED else code  # the one before it has not ended yet

            ended[name] = await eventually(tried, f"{name} finds room")
        mongo.thaw()

    assert set(ended.values()) <= {Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE}, ended


async def test_each_cancelled_call_ends(client: ClickstreamClient, mongo: Mongo) -> None:
    """With MongoDB frozen each RPC that its caller cancels ends in the server, too, and makes room for the next one."""
    batch_id = (await client.register_session(Session(session_id="known"))).session.batch_id
    async with channel_to(client) as channel:
        await mongo.freeze()
        for name, messages in needing_the_database(batch_id).items():

            async def taken(name: str = name, messages: list[Any] = messages) -> bool:
                """The call is taken on: another one like it is refused, and not because of the call before this."""
                call = start(channel, name, messages, 2 * PATIENCE_S)
                other = start(channel, name, messages, 2 * PATIENCE_S)
                ends = {asyncio.ensure_future(code_of(one, messages)): one for one in (call, other)}
                done, running = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                one_runs = len(done) == 1 and len(running) == 1
                for one in (call, other):
                    one.cancel()
                await asyncio.wait(ends)
                return one_runs and done.pop().result() is Code.RESOURCE_EXHAUSTED

            await eventually(taken, f"{name} is taken on")
        mongo.thaw()


@pytest.mark.parametrize("leaves", ["is cancelled", "has no time left"])
async def test_a_registration_leaves_the_queue(mongo: Mongo, leaves: str) -> None:
    """Registrations that wait behind a group and whose callers go away are not stored; those of others are."""
    prefix = leaves.replace(" ", "-")
    async with served(mongo.uri, DATABASE, storage_timeout_s=3600) as client, channel_to(client) as channel:
        register = METHODS["RegisterSession"]

        def registration(name: str, timeout: float) -> Any:
            request = pb.RegisterSessionRequest(session=session_pb2.Session(session_id=f"{prefix}-{name}"))
            return start(channel, register.name, [request], timeout)

        await registration("first", PATIENCE_S)
        await mongo.freeze()
        in_group = registration("in the group", 4 * PATIENCE_S)
        await eventually(group_commit_runs, "the group has begun")
        timeout = 0.5 if leaves == "has no time left" else 4 * PATIENCE_S
        gone = [registration(f"gone {number}", timeout) for number in range(20)]
        stays = registration("stays", 4 * PATIENCE_S)
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())  # came behind all of them
        if leaves == "is cancelled":
            for call in gone:
                call.cancel()
        codes = {await code_of(call) for call in gone}
        assert codes <= {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE}, codes
        health = start(channel, "GetBatch", [pb.GetBatchRequest(batch_id="b")], 0.2)
        assert await code_of(health) is not Code.OK  # the server has had a turn since
        mongo.thaw()
        await in_group
        await stays
        stored = await mongo.ids()

    expected = {f"{prefix}-{name}" for name in ("first", "in the group", "stays")}
    assert expected == {found for found in stored if found.startswith(prefix)}


@pytest.fixture
def small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """MongoDB gives a page's sessions in several answers, so that it has a cursor in between."""
    monkeypatch.setattr(paging, "_BATCH_SESSIONS", 5)


class Commands(CommandListener):
    """The names of the commands that were sent, and of those that failed."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.errors: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None:
        self.errors.append(event.command_name)


@asynccontextmanager
async def reading(mongo: Mongo, driver: DriverName) -> AsyncIterator[tuple[Any, Commands]]:
    """An export of more than a page's MiB that was not begun yet, and the commands that were sent meanwhile."""
    commands = Commands()
    connection = connect(mongo.uri, driver, listeners=[commands])
    dao = MongoClickstreamDao(connection, DATABASE)
    await dao.open()
    sessions = (Session(session_id=f"to be read {number}", search_query="x" * 20_000) for number in range(80))
    await asyncio.gather(*map(dao.register_session, sessions))
    async with aclosing(dao.export_messages(ExportFilter())) as pages:
        yield pages, commands
    await dao.close()
    await close(connection)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_cursor_is_closed_whose_reader_left_before_its_first_answer(
    mongo: Mongo, driver: DriverName, small_answers: None
) -> None:
    """A reader that is cancelled before MongoDB has told it of a cursor leaves none open, either."""
    async with reading(mongo, driver) as (pages, commands):
        await mongo.freeze()
        begun = asyncio.create_task(anext(pages))

        async def sent() -> bool:
            return "find" in commands.sent

        await eventually(sent, "the query is sent")
        begun.cancel()
        await asyncio.wait([begun])
        mongo.thaw()
        await eventually(partial(none_open, mongo), "no cursor is open")


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_cursor_is_closed_whose_reader_left_it_before_its_end(
    mongo: Mongo, driver: DriverName, small_answers: None
) -> None:
    """A reader whose page is full before its cursor is at its end closes that, and MongoDB has nothing against it."""
    async with reading(mongo, driver) as (pages, commands):
        async for _ in pages:
            pass

        async def closed() -> bool:
            return "killCursors" in commands.sent and await none_open(mongo)

        await eventually(closed, "no cursor is open")
    assert "killCursors" not in commands.errors


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_cursor_is_closed_whose_reader_is_cancelled_as_it_leaves(mongo: Mongo, driver: DriverName) -> None:
    """A reader that is cancelled while it leaves a cursor and no connection is free leaves none open, either."""
    commands = Commands()
    client = connect(mongo.uri, driver, MongoOptions(max_pool_size=1), listeners=[commands])
    numbers = client[DATABASE].numbers
    await numbers.insert_many([{} for _ in range(10)])
    batches = batches_of(numbers.find_raw_batches().batch_size(2))
    await anext(batches)
    assert not await none_open(mongo)
    await mongo.freeze()
    other = asyncio.ensure_future(numbers.count_documents({}))

    async def sent() -> bool:
        return "aggregate" in commands.sent

    await eventually(sent, "the only connection is in use")
    leaving = asyncio.ensure_future(batches.aclose())
    await asyncio.sleep(0)  # it comes to where it would wait
    leaving.cancel()
    await asyncio.wait([leaving])
    mongo.thaw()
    assert await other == 10
    await eventually(partial(none_open, mongo), "no cursor is open")
    await numbers.drop()
    await close(client)


@pytest.mark.parametrize("name", ["GetBatchSessions", "ExportSessions"])
async def test_cursors_of_readers_that_went_away_are_closed(
    client: ClickstreamClient, mongo: Mongo, name: str, small_answers: None
) -> None:
    """Readers that are cancelled in the middle of reading leave no cursor open in MongoDB."""
    query = "x" * 20_000
    for number in range(40):
        done = await client.register_session(Session(session_id=f"{name}-{number}", search_query=query))
    messages = needing_the_database(done.session.batch_id) | {
        "GetBatchSessions": [pb.GetBatchSessionsRequest(batch_id=done.session.batch_id)]
    }
    async with channel_to(client) as channel:
        for moment in range(12):
            call = start(channel, name, messages[name], PATIENCE_S)
            await asyncio.sleep(0.002 * moment)
            await mongo.freeze()
            await asyncio.sleep(0.01)
            call.cancel()
            mongo.thaw()

    await eventually(partial(none_open, mongo), "no cursor is open")
