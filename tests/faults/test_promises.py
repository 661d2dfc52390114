"""The four promises, on two server processes and one database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from faults.checker import CONFLICT, DUPLICATE, History, Stored, breaches, read_stored
from faults.workload import Workload

from clickstream import ClickstreamClient, Session
from harness import ServerProcess, served


@asynccontextmanager
async def two_servers(mongodb_uri: str, database: str) -> AsyncIterator[list[ServerProcess]]:
    """Two processes on one database; what stands in the list at the end is stopped."""
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    servers = list(await asyncio.gather(*(ServerProcess.start(**settings) for _ in range(2))))
    try:
        yield servers
    finally:
        await asyncio.gather(*(server.kill() for server in servers))


async def test_the_promises_hold_under_load(mongodb_uri: str, database: str) -> None:
    """Two servers, many writers of the same ids, readers that tail and releases in between break no promise."""
    async with (
        two_servers(mongodb_uri, database) as servers,
        ClickstreamClient(servers[0].address) as first,
        ClickstreamClient(servers[1].address) as second,
    ):
        work = Workload([first, second])

        async def release_now_and_then() -> None:
            for number in range(1, 5):
                await work.until_acknowledged(100 * number)
                await work.release(f"release {number}", first, second)

        history = await work.run(writers=12, sessions_each=30, disturb=release_now_and_then)
        stored = await read_stored(mongodb_uri, database)

    assert [] == breaches(history, stored)
    assert 12 * 30 == len(stored.sessions)
    _assert_that_much_happened(history, stored, releases=5)


async def test_the_promises_hold_when_a_server_is_killed(mongodb_uri: str, database: str) -> None:
    """`kill -9` of a server in the middle of writes, and its return on the same port, break no promise."""
    async with (
        two_servers(mongodb_uri, database) as servers,
        ClickstreamClient(servers[0].address) as first,
        ClickstreamClient(servers[1].address) as second,
    ):
        work = Workload([first, second])

        async def kill_and_restart() -> None:
            for number in range(1, 3):
                await work.until_acknowledged(150 * number)
                work.history.kills.append(monotonic())
                await servers[0].kill()
                await work.release(f"release {number}", second)
                servers[0] = await ServerProcess.start(
                    listen=servers[0].address, mongodb_uri=mongodb_uri, mongodb_database=database
                )

        history = await work.run(writers=12, sessions_each=30, disturb=kill_and_restart)
        stored = await read_stored(mongodb_uri, database)

    assert [] == breaches(history, stored)
    assert 12 * 30 == len(stored.sessions)
    _assert_that_much_happened(history, stored, releases=3)


DIES_IN_A_TRANSACTION = """
import sys
from pymongo import MongoClient
client = MongoClient(sys.argv[1], appname="clickstream")
session = client.start_session()
session.start_transaction()
query = {"status": "COLLECTING"}
client[sys.argv[2]].batches.update_one(query, {"$inc": {"session_counter": 1}}, session=session)
print("in", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["register", "release"])
async def test_a_server_that_dies_in_its_transaction_does_not_stop_the_others(
    mongodb_uri: str, database: str, what: str
) -> None:
    """What a killed server had not committed yet does not hold up another call past its deadline of ten seconds."""
    async with served(mongodb_uri, database) as client:
        await client.register_session(Session(session_id="a"))
        dying = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", DIES_IN_A_TRANSACTION, mongodb_uri, database),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert b"in\n" == await dying.stdout.readline()
        dying.kill()
        await dying.communicate()

        if what == "register":
            assert 2 == (await client.register_session(Session(session_id="b"))).session.session_number
        else:
            assert 1 == (await client.release_batch("r")).batch.session_counter


def _assert_that_much_happened(history: History, stored: Stored, releases: int) -> None:
    """A quiet run would prove nothing: there were retries, conflicts, moves, several batches, and readers at work."""
    outcomes = {write.outcome for write in history.writes}
    assert {CONFLICT, DUPLICATE} & outcomes
    assert any(write.update for write in history.writes)
    assert releases == len(stored.counters)
    assert {"follower 0", "follower 1", "tail 0", "tail 1"} == {reading.reader for reading in history.readings}
    assert all(reading.sealed for reading in history.readings)
