"""A replica set of three under everything that clients do, while something breaks.

The long form runs with `make test-faults`, and reports.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from faults.checker import breaches, read_stored
from faults.mixed import PATIENCE_S, TAIL, MixedLoad
from faults.network import Fault
from faults.replica_set import Member, ReplicaSet
from faults.report import outcome_of
from faults.workload import AWAY
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient, ExportFilter, Session
from clickstream_server.config import Settings
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import DriverName
from harness import ServerProcess, eventually, opened_dao

Disturb = Callable[[ReplicaSet, Member], Awaitable[None]]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
async def replica_set(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReplicaSet]:
    found = ReplicaSet(tmp_path_factory.mktemp("replica-set"))
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


class Scene:
    """Two servers on the replica set, and the load on them."""

    def __init__(self, replica_set: ReplicaSet, settings: dict[str, Any], servers: list[ServerProcess]) -> None:
        self.replica_set = replica_set
        self._settings = settings
        self._servers = servers
        self.load: MixedLoad

    async def lose_primary(self, begin: Disturb, end: Disturb, *, elected: bool = True, answers: int = 5) -> None:
        """Disturb the primary; wait until everyone is served again; release; end it; wait until everyone is served."""
        await self.load.goes_on(answers)
        primary = await self.replica_set.primary()
        began = monotonic()
        await begin(self.replica_set, primary)
        if elected:
            await self.replica_set.another_than(primary)
        await self._served_on(answers)
        await end(self.replica_set, primary)
        await self.replica_set.whole()
        await self.load.goes_on(answers)
        self.load.history.outages.append((began, monotonic()))

    async def lose_server(self) -> None:
        """`kill -9` of a server, which comes back at its address."""
        await self.load.goes_on()
        began = monotonic()
        await self._servers[0].kill()
        await self._served_on()
        self._servers[0] = await ServerProcess.start(listen=self._servers[0].address, **self._settings)
        await self.load.goes_on()
        self.load.history.outages.append((began, monotonic()))

    async def _served_on(self, answers: int = 5) -> None:
        await self.load.goes_on(answers)
        await self.load.release(f"release {uuid4()}", *self.load.clients)

    async def survives(self, name: str, disturb: Callable[[], Awaitable[None]], record: Record) -> None:
        """Run the load while it is disturbed; put a line into the report; and no promise is broken."""
        before = await self.replica_set.term()
        history = await self.load.run_during(disturb)
        stored = await read_stored(self.replica_set.uri, self._settings["mongodb_database"])
        elections = await self.replica_set.term() - before
        record("fault", outcome_of(name, self.load, stored, elections))
        assert [] == breaches(history, stored)
        assert all(reading.sealed for reading in history.readings)
        assert TAIL in {reading.reader for reading in history.readings}


@asynccontextmanager
async def scene(replica_set: ReplicaSet, driver: str) -> AsyncIterator[Scene]:
    """Begins on a replica set that is whole; afterwards it is whole again, and nothing is left in it."""
    await replica_set.whole()
    database = f"test_{uuid4().hex[:12]}"
    settings = {"mongodb_uri": replica_set.uri, "mongodb_database": database, "mongodb_driver": driver}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_clean, replica_set, database)
        servers: list[ServerProcess] = []
        stack.push_async_callback(_kill, servers)
        servers += [await ServerProcess.start(**settings), await ServerProcess.start(**settings)]
        clients = [await stack.enter_async_context(ClickstreamClient(server.address)) for server in servers]
        found = Scene(replica_set, settings, servers)
        found.load = MixedLoad(clients)
        yield found


async def _kill(servers: list[ServerProcess]) -> None:
    for server in servers:
        await server.kill()
        sys.stderr.write(server.errors)  # pytest shows it if the test has failed


async def _clean(replica_set: ReplicaSet, database: str) -> None:
    await replica_set.mend()
    async with AsyncMongoClient[dict[str, Any]](replica_set.uri) as client:
        await client.admin.command("killAllSessions", [])
        await client.drop_database(database)


async def kill(_: ReplicaSet, member: Member) -> None:
    await member.kill()


async def start(_: ReplicaSet, member: Member) -> None:
    await member.start()


async def freeze(_: ReplicaSet, member: Member) -> None:
    await member.freeze()


async def thaw(_: ReplicaSet, member: Member) -> None:
    member.thaw()


async def step_down(replica_set: ReplicaSet, member: Member) -> None:
    async def done() -> bool:
        await member.ask({"replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 5})  # refused if none can take over
        return await replica_set.primary() is not member

    await eventually(done, "it has stepped down")


async def cut(replica_set: ReplicaSet, member: Member) -> None:
    replica_set.network.disturb(Fault.CUT, member.number)


async def cut_from_members(replica_set: ReplicaSet, member: Member) -> None:
    replica_set.network.disturb(Fault.CUT, member.number, clients=False)


async def slow(replica_set: ReplicaSet, member: Member) -> None:
    replica_set.network.disturb(Fault.SLOW, member.number)


async def half_open(replica_set: ReplicaSet, member: Member) -> None:
    replica_set.network.disturb(Fault.HALF_OPEN, member.number)


async def heal(replica_set: ReplicaSet, _: Member) -> None:
    replica_set.network.heal()


FAULTS = {
    "primary steps down": (step_down, heal),
    "primary killed": (kill, start),
    "primary frozen": (freeze, thaw),
    "primary cut off": (cut, heal),
    "primary cut off from members": (cut_from_members, heal),
    "half-open network to primary": (half_open, heal),
    "slow network to primary": (slow, heal),
}


async def test_a_primary_that_is_killed_and_one_that_is_frozen(
    replica_set: ReplicaSet, record_property: Record
) -> None:
    """The short form: two primaries are lost, one by `kill -9`, one for a while, and no promise is broken."""
    async with scene(replica_set, "motor") as found:

        async def disturb() -> None:
            await found.lose_primary(kill, start, answers=2)
            await found.lose_primary(freeze, thaw, answers=2)

        await found.survives("killed, then frozen, motor", disturb, record_property)


@pytest.mark.long
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_primary_is_lost(replica_set: ReplicaSet, fault: str, driver: str, record_property: Record) -> None:
    """Whatever happens to the primary, no promise is broken, and everyone is served again while it lasts."""
    begin, end = FAULTS[fault]
    async with scene(replica_set, driver) as found:
        await found.survives(
            f"{fault}, {driver}", lambda: found.lose_primary(begin, end, elected=begin is not slow), record_property
        )


@pytest.mark.long
async def test_a_server_is_lost(replica_set: ReplicaSet, record_property: Record) -> None:
    """`kill -9` of a server under load, and its return, break no promise."""
    async with scene(replica_set, "motor") as found:
        await found.survives("server killed, motor", found.lose_server, record_property)


@pytest.mark.long
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_followers_are_told_of_what_the_new_primary_commits(replica_set: ReplicaSet, driver: DriverName) -> None:
    """While the old primary stands apart with the server's change stream, followers are woken by the new one's."""
    database = f"test_{uuid4().hex[:12]}"
    settings = Settings(mongodb_database=database, mongodb_driver=driver)
    seen: list[str] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_clean, replica_set, database)
        dao = await stack.enter_async_context(opened_dao(replica_set.uri, settings))
        watcher = dao._reader._watcher
        batch_id = (await dao.register_session(Session(session_id="first"))).session.batch_id
        following = asyncio.create_task(_follow(dao, batch_id, seen))
        stack.callback(following.cancel)
        await eventually(lambda: _holds(lambda: bool(seen)), "the follower has begun")
        primary = await replica_set.primary()
        await cut_from_members(replica_set, primary)
        await replica_set.another_than(primary)

        async def told() -> bool:
            stream, wakes, session_id = watcher._listening, watcher.wakes, uuid4().hex
            try:
                await dao.register_session(Session(session_id=session_id))
            except AWAY:
                return False  # the new primary still waits for the other member
            await eventually(lambda: _holds(lambda: session_id in seen), "the follower sees it", PATIENCE_S)
            return stream is watcher._listening and watcher.wakes > wakes

        await eventually(told, "followers are woken", PATIENCE_S)


@pytest.mark.long
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_new_primary_shows_what_was_acknowledged(replica_set: ReplicaSet, driver: DriverName) -> None:
    """Every read shows what was acknowledged right before the primary was lost, and had not told that a majority has
    it: the new one does not know that, until the other member follows it.
    """
    database = f"test_{uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_clean, replica_set, database)
        settings = Settings(mongodb_database=database, mongodb_driver=driver)
        dao = await stack.enter_async_context(opened_dao(replica_set.uri, settings))
        batch_id = (await dao.register_session(Session(session_id="first"))).session.batch_id
        primary = await replica_set.primary()
        replica_set.network.disturb(Fault.SLOW, primary.number, clients=False)
        await dao.register_session(Session(session_id="last"))
        replica_set.network.disturb(Fault.CUT, primary.number)
        await primary.kill()

        async def in_batch() -> int:
            return sum([len(page.sessions) async for page in dao.get_batch_pages(batch_id)])

        async def exported() -> int:
            return sum([len(page.sessions) async for page in dao.export_sessions(ExportFilter(batch_id=batch_id))])

        async def counted() -> int:
            batch = await dao.get_batch(batch_id)
            assert batch is not None
            return batch.session_counter

        async def listed() -> int:
            return (await dao.list_batches()).batches[0].session_counter

        async def got() -> int:
            found = await dao.get_session("last")
            return found.session_number if found else 0

        reads = (in_batch, exported, counted, listed, got)
        assert [2] * len(reads) == await asyncio.gather(*map(_insisting, reads))


async def _insisting(read: Callable[[], Awaitable[int]]) -> int:
    """The first answer, as who makes a call again while there is none has it."""
    give_up_at = monotonic() + PATIENCE_S
    while monotonic() < give_up_at:
        with suppress(*AWAY):
            return await read()
    raise AssertionError("the service never came back")


async def _follow(dao: MongoClickstreamDao, batch_id: str, seen: list[str]) -> None:
    """Follow as clients do: from the last number that came, where the new primary kept a read waiting for too long."""
    last = 0
    while True:
        with suppress(*AWAY):
            async with aclosing(dao.get_batch_pages(batch_id, after_number=last, follow=True)) as pages:
                async for page in pages:
                    seen += [found.session.session_id for found in page.sessions]
                    last = page.last_number
        await asyncio.sleep(0.1)


async def _holds(condition: Callable[[], bool]) -> bool:
    return condition()
