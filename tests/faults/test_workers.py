"""`clickstream serve --workers N`: many processes, one server. Workers and the supervisor are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import grpc.aio
import pytest
from faults.checker import breaches, read_stored
from faults.workload import Workload
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from clickstream import ClickstreamClient, ClickstreamError, DeadlineExceeded, Session, Unavailable
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream_server.embedded import EmbeddedMongo
from harness import PATIENCE_S, ServerProcess, eventually, freeze, mongod_pid, runs, worker_pids

AT_ONCE_S = 10.0
"""So long a stop at once has at most, on a busy machine: a third of what an embedded MongoDB gets to stop in order."""


@asynccontextmanager
async def clients_of(address: str, count: int) -> AsyncIterator[list[ClickstreamClient]]:
    """Clients with a connection each, which the kernel gives to workers as it likes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ClickstreamClient(address)) for _ in range(count)]


async def all_workers(server: ServerProcess, count: int, but: int = 0) -> dict[int, int]:
    """The pids of that many workers, none of which is `but`, once there are so many."""

    async def complete() -> dict[int, int]:
        found = worker_pids(server.pid)
        return found if len(found) == count and but not in found.values() else {}

    return await eventually(complete, f"{count} workers")


async def all_gone(*pids: int) -> None:
    async def gone() -> bool:
        return not any(map(runs, pids))

    await eventually(gone, f"{pids} are gone")


def connections(pid: int, port: int) -> int:
    """How many connections of clients to this port a process has; see proc(5), net/tcp."""
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    established = {line[9] for line in lines if line[3] == "01" and int(line[1].split(":")[1], 16) == port}
    links = [str(found.readlink()) for found in Path(f"/proc/{pid}/fd").iterdir() if found.is_symlink()]
    return len(established & {link.removeprefix("socket:[").removesuffix("]") for link in links})


async def hanging(client: ClickstreamClient, session_id: str) -> Any:
    """A registration that the server runs. The client has a connection, and its database stands still."""
    session = session_pb2.Session(session_id=session_id)
    call = client._stub.RegisterSession(pb.RegisterSessionRequest(session=session), timeout=3600)
    await HealthStub(client._channel).Check(HealthCheckRequest())  # answered behind it, on the same connection
    assert not call.done()
    return call


async def failed(call: Any) -> bool:
    """Whether the call ends with an error."""
    return isinstance((await asyncio.gather(call, return_exceptions=True))[0], grpc.aio.AioRpcError)


async def test_connections_spread_over_the_workers(mongodb_uri: str, database: str) -> None:
    """Of many clients some are served by one worker, some by the other, and what one stored the other reads."""
    server = await ServerProcess.start(workers=2, mongodb_uri=mongodb_uri, mongodb_database=database)
    async with clients_of(server.address, 32) as clients:
        await asyncio.gather(*(client.register_session(Session(session_id="s")) for client in clients))
        found = await asyncio.gather(*(client.get_session("s") for client in clients))
        counts = [connections(pid, int(server.address.split(":")[1])) for pid in worker_pids(server.pid).values()]

    assert [1] * 32 == [session.session_number for session in found]
    assert 2 == len(counts)
    assert all(counts), counts
    assert 0 == await server.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_promises_hold_while_workers_end(mongodb_uri: str, database: str, number: signal.Signals) -> None:
    """Every worker is ended in turn under writers, readers and releases: no promise is broken, and each comes back."""
    server = await ServerProcess.start(workers=3, mongodb_uri=mongodb_uri, mongodb_database=database)
    async with clients_of(server.address, 4) as clients:
        work = Workload(clients)

        async def end_each() -> None:
            for worker in (1, 2, 3):
                await work.until_acknowledged(150 * worker)
                work.history.kills.append(monotonic())
                pid = worker_pids(server.pid)[worker]
                os.kill(pid, number)
                await work.release(f"release {worker}", *clients)
                await all_workers(server, 3, but=pid)

        history = await work.run(writers=12, sessions_each=30, disturb=end_each)
        stored = await read_stored(mongodb_uri, database)
    assert 0 == await server.stop()

    assert [] == breaches(history, stored)
    assert 12 * 30 == len(stored.sessions)
    assert 4 == len(stored.counters)
    how = "was ended by SIGKILL" if number == signal.SIGKILL else "ended with code 0"
    assert 3 == server.errors.count(f"{how}; it is started again")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_promises_hold_while_the_server_starts_again(
    mongodb_uri: str, database: str, number: signal.Signals
) -> None:
    """The supervisor is ended under load and started at once on the same port: no promise is broken."""
    settings = {"workers": 2, "mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    servers = [server]
    async with clients_of(server.address, 4) as clients:
        work = Workload(clients)

        async def start_again() -> None:
            await work.until_acknowledged(200)
            work.history.kills.append(monotonic())
            server.signal(number)
            await server.exited()
            servers.append(await ServerProcess.start(listen=server.address, **settings))
            await work.release("release", *clients)

        history = await work.run(writers=8, sessions_each=30, disturb=start_again)
        stored = await read_stored(mongodb_uri, database)
    assert 0 == await servers[-1].stop()

    assert [] == breaches(history, stored)
    assert 8 * 30 == len(stored.sessions)
    assert 2 == len(stored.counters)


@pytest.mark.parametrize("killed", ["supervisor", "supervisor and worker"])
async def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path, killed: str) -> None:
    """`kill -9` of the supervisor ends its workers and its mongod, and a new start on the port has the data."""
    server = await ServerProcess.start(workers=2, data_dir=tmp_path)
    async with ClickstreamClient(server.address) as client:
        assert 1 == (await client.register_session(Session(session_id="a"))).session.session_number
    pids = [*worker_pids(server.pid).values(), mongod_pid(tmp_path)]
    assert 3 == len(pids)
    if "worker" in killed:
        os.kill(pids[0], signal.SIGKILL)
    await server.kill()

    await all_gone(*pids)
    assert "Traceback" not in server.errors
    server = await ServerProcess.start(workers=2, data_dir=tmp_path, listen=server.address)
    async with ClickstreamClient(server.address) as client:
        assert 2 == (await client.register_session(Session(session_id="b"))).session.session_number
    assert 0 == await server.stop()


async def test_a_killed_worker_leaves_the_database_alone(tmp_path: Path) -> None:
    """`kill -9` of all workers does not touch the embedded MongoDB, and the server goes on by itself."""
    server = await ServerProcess.start(workers=2, data_dir=tmp_path)
    mongod = mongod_pid(tmp_path)
    for pid in worker_pids(server.pid).values():
        os.kill(pid, signal.SIGKILL)
    async with ClickstreamClient(server.address) as client:

        async def registered() -> int:
            try:
                return (await client.register_session(Session(session_id="a"))).session.session_number
            except ClickstreamError:
                return 0

        assert 1 == await eventually(registered, "a worker serves again")
    assert mongod == mongod_pid(tmp_path)
    await all_workers(server, 2)
    assert 0 == await server.stop()
    assert not runs(mongod)


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stop_under_load_loses_nothing(mongodb_uri: str, database: str, workers: int) -> None:
    """SIGTERM amid registrations: each is answered or refused, none hangs, and what was answered is stored."""
    server = await ServerProcess.start(workers=workers, mongodb_uri=mongodb_uri, mongodb_database=database)
    acknowledged: set[str] = set()

    async def register_until_refused(client: ClickstreamClient, writer: int) -> None:
        number = 0
        while True:
            session_id = f"{writer}-{number}"
            try:
                await client.register_session(Session(session_id=session_id, search_query="lamp"))
            except ClickstreamError:
                return
            acknowledged.add(session_id)
            number += 1

    async with clients_of(server.address, 8) as clients, asyncio.timeout(2 * PATIENCE_S):
        writing = [
            asyncio.create_task(register_until_refused(client, place)) for place, client in enumerate(clients * 4)
        ]

        async def many() -> bool:
            return len(acknowledged) > 200

        await eventually(many, "200 registrations")
        assert 0 == await server.stop()
        await asyncio.gather(*writing)

    stored = await read_stored(mongodb_uri, database)
    assert acknowledged <= {session.session_id for session in stored.sessions}
    assert sorted(session.place.number for session in stored.sessions) == list(range(1, len(stored.sessions) + 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_all_of_its_processes_is_one_stop(
    mongodb_uri: str, database: str, number: signal.Signals
) -> None:
    """A signal that reaches supervisor and workers at once, as a service manager sends it, is one stop in order."""
    server = await ServerProcess.start(workers=2, mongodb_uri=mongodb_uri, mongodb_database=database)
    workers = worker_pids(server.pid).values()
    for pid in [*workers, server.pid, *workers]:
        os.kill(pid, number)

    assert 0 == await server.exited()
    assert not any(map(runs, workers))
    assert "Traceback" not in server.errors


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, workers: int, driver: str) -> None:
    """With a frozen mongod, a call that hangs and an hour to drain, it ends the server, its workers and its mongod."""
    server = await ServerProcess.start(
        workers=workers, mongodb_driver=driver, data_dir=tmp_path, drain_s=3600, storage_timeout_s=3600
    )
    mongod = mongod_pid(tmp_path)
    pids = [*worker_pids(server.pid).values(), mongod]
    async with ClickstreamClient(server.address, deadline_s=3600) as client:
        await client.list_batches()
        await freeze(mongod)
        call = await hanging(client, "s")
        try:
            server.signal(signal.SIGINT)

            async def refuses() -> bool:
                try:
                    async with ClickstreamClient(server.address, deadline_s=1) as other:
                        await other.list_batches()
                except DeadlineExceeded:  # it is taken, and waits for the database
                    return False
                except Unavailable:  # refused, or not listened to any more
                    return True
                return False

            await eventually(refuses, "it drains")
            server.signal(signal.SIGINT)
            async with asyncio.timeout(AT_ONCE_S):
                assert 130 == await server.exited()
                assert await failed(call)
        finally:
            with suppress(ProcessLookupError):
                os.kill(mongod, signal.SIGCONT)
    assert "stopped before everything was done" in server.errors
    await all_gone(*pids)


@pytest.mark.parametrize("workers", [1, 2])
async def test_two_signals_at_one_moment_are_a_first_and_a_second(tmp_path: Path, workers: int) -> None:
    """A server too busy to see the first signal before the second comes stops at once, too: it does not drain."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    mongod = mongod_pid(tmp_path)
    server = await ServerProcess.start(mongodb_uri=uri, workers=workers, drain_s=3600, storage_timeout_s=3600)
    pids = worker_pids(server.pid).values()
    try:
        async with ClickstreamClient(server.address, deadline_s=3600) as client:
            await client.list_batches()
            await freeze(mongod)
            call = await hanging(client, "s")
            await freeze(server.pid)
            server.signal(signal.SIGTERM)
            server.signal(signal.SIGINT)
            server.signal(signal.SIGCONT)
            async with asyncio.timeout(AT_ONCE_S):
                assert 130 == await server.exited()
                assert await failed(call)
    finally:
        os.kill(mongod, signal.SIGCONT)
        await mongo.stop()
    await all_gone(*pids)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_stop_does_not_wait_for_a_frozen_database(tmp_path: Path, workers: int, driver: str) -> None:
    """With a database that stands still under a registration and a follower, a stop still ends, in order."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    mongod = mongod_pid(tmp_path)
    server = await ServerProcess.start(
        mongodb_uri=uri, workers=workers, mongodb_driver=driver, drain_s=0, storage_timeout_s=3600
    )
    try:
        async with ClickstreamClient(server.address, deadline_s=3600) as client:
            await client.register_session(Session(session_id="a"))
            async with aclosing(client.get_batch_pages("", follow=True)) as pages:
                await anext(pages)
                await freeze(mongod)
                call = await hanging(client, "b")
                assert 0 == await server.stop()
                assert await failed(call)
    finally:
        os.kill(mongod, signal.SIGCONT)
        await mongo.stop()
    assert "Traceback" not in server.errors


async def test_workers_of_a_killed_supervisor_do_not_wait_for_the_database(tmp_path: Path) -> None:
    """After `kill -9` of the supervisor its workers end, however long the calls that they run would take."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    mongod = mongod_pid(tmp_path)
    server = await ServerProcess.start(mongodb_uri=uri, workers=2, drain_s=3600, storage_timeout_s=3600)
    workers = worker_pids(server.pid).values()
    try:
        async with ClickstreamClient(server.address, deadline_s=3600) as client:
            await client.register_session(Session(session_id="a"))
            await freeze(mongod)
            call = await hanging(client, "b")
            server.signal(signal.SIGKILL)
            await all_gone(*workers)
            call.cancel()
    finally:
        os.kill(mongod, signal.SIGCONT)
        await mongo.stop()
        await server.kill()


async def test_a_worker_that_hangs_is_killed(mongodb_uri: str, database: str) -> None:
    """A worker that stands still when all are to stop is killed once its time is over, and the exit code tells."""
    server = await ServerProcess.start(workers=2, mongodb_uri=mongodb_uri, mongodb_database=database, drain_s=0)
    workers = worker_pids(server.pid)
    await freeze(workers[2])

    assert 1 == await server.stop()
    assert "1 of 2 workers did not stop in time and were killed" in server.errors
    await all_gone(*workers.values())
