"""Workers: what do several processes on one port bring, and what do their conflicting transactions cost?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc.aio
from pymongo import MongoClient

from benchmarks.system import children, cpu_s, serve
from benchmarks.workload import items
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.wire import session_to_pb
from clickstream_server.embedded import EmbeddedMongo

NAME = "workers"
ITEMS = 4_000
WORKERS = (1, 2)
_CONNECTIONS = 16
_IN_FLIGHT = 64
"""As many as a server never takes for an overload."""
_READERS = 8
_SERVICE = "/clickstream.v1.ClickstreamService/"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True, slots=True)
class Rate:
    """One work in one round: how fast it went, and what it took."""

    work: str
    workers: int
    items: int
    wall_s: float
    server_cpu_s: float
    commits: int
    conflicts: int
    """Transactions that were committed, and those that were ended because they conflicted, and started again."""

    @property
    def per_s(self) -> float:
        return self.items / self.wall_s

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"per_s": self.per_s}


@dataclass(frozen=True, slots=True)
class _Server:
    workers: int
    pid: int
    mongo: MongoClient[Any]
    channels: Sequence[grpc.aio.Channel]

    def cpu_s(self) -> float:
        return cpu_s(self.pid) + sum(map(cpu_s, children(self.pid)))

    def transactions(self) -> tuple[int, int]:
        """How many were committed and ended without that, so far."""
        found = self.mongo.admin.command("serverStatus")["transactions"]
        return found["totalCommitted"], found["totalAborted"]


async def run_workers(
    folder: Path, driver: str, *, rounds: int, count: int, progress: Callable[[str], None]
) -> list[Rate]:
    """With 1 and with 2 workers: register so many sessions, read each, have several readers read the batch."""
    rates: list[Rate] = []
    async with AsyncExitStack() as stack:
        mongod = EmbeddedMongo(folder)
        uri = await mongod.start()
        stack.push_async_callback(mongod.stop)
        servers = [await stack.enter_async_context(_served(uri, driver, workers)) for workers in WORKERS]
        for number in range(rounds + 1):
            for server in servers if number % 2 else reversed(servers):
                found = await _round(server, number, count if number else 100)
                rates += found if number else []  # the first is to warm up
            progress(f"workers: round {number} is over")
    return rates


@asynccontextmanager
async def _served(uri: str, driver: str, workers: int) -> AsyncIterator[_Server]:
    async with AsyncExitStack() as stack:
        pid, address = await serve(uri, driver, stack, database=f"workers{workers}", workers=workers)
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            for _ in range(_CONNECTIONS)
        ]
        yield _Server(workers, pid, stack.enter_context(MongoClient(uri)), channels)


async def _round(server: _Server, number: int, count: int) -> list[Rate]:
    sessions = [session_to_pb(item.session) for item in islice(items(count, seed=number), count)]
    registrations = [pb.RegisterSessionRequest(session=session).SerializeToString() for session in sessions]
    lookups = [pb.GetSessionRequest(session_id=session.session_id).SerializeToString() for session in sessions]
    batch_id = ""
    numbers: list[int] = []

    async def register() -> None:
        nonlocal batch_id
        answers = await _unary(server, "RegisterSession", registrations)
        found = [pb.RegisterSessionResponse.FromString(answer).session for answer in answers]
        batch_id = found[0].batch_id
        numbers.extend(session.session_number for session in found)

    async def look_up() -> None:
        answers = await _unary(server, "GetSession", lookups)
        assert all(answers)

    async def read() -> None:
        request = pb.GetBatchSessionsRequest(batch_id=batch_id).SerializeToString()
        read = await asyncio.gather(*(_read(channel, request) for channel in server.channels[:_READERS]))
        assert [count] * _READERS == read, read

    rates = [await _timed(server, "RegisterSession", count, register)]
    assert list(range(1, count + 1)) == sorted(numbers)
    rates.append(await _timed(server, "GetSession", count, look_up))
    rates.append(await _timed(server, "GetBatchSessions", count * _READERS, read))
    await _unary(server, "ReleaseBatch", [pb.ReleaseBatchRequest(release_id=f"r{number}").SerializeToString()])
    return rates


async def _timed(server: _Server, work: str, count: int, run: Callable[[], Awaitable[None]]) -> Rate:
    (commits, aborts), spent_s, began = server.transactions(), server.cpu_s(), perf_counter()
    await run()
    wall_s = perf_counter() - began
    committed, aborted = server.transactions()
    cpu = server.cpu_s() - spent_s
    return Rate(work, server.workers, count, wall_s, cpu, committed - commits, aborted - aborts)


async def _unary(server: _Server, method: str, requests: Sequence[bytes]) -> list[bytes]:
    """Make these calls, so many at a time over all connections; return the answers."""
    answers: list[bytes] = []
    waiting = iter(requests)

    async def call(channel: grpc.aio.Channel) -> None:
        ask = channel.unary_unary(_SERVICE + method)
        answers.extend([await ask(request) for request in waiting])

    await asyncio.gather(*(call(server.channels[place % _CONNECTIONS]) for place in range(_IN_FLIGHT)))
    return answers


async def _read(channel: grpc.aio.Channel, request: bytes) -> int:
    """Read the batch; return how many sessions came."""
    call = channel.unary_stream(_SERVICE + "GetBatchSessions")(request)
    return sum([len(pb.GetBatchSessionsResponse.FromString(answer).sessions) async for answer in call])
