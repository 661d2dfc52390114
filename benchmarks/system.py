"""The system that is measured: a mongod and a server, each a process of its own, and a client here."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from re import sub
from typing import Any

import grpc.aio
from pymongo import AsyncMongoClient, MongoClient

from benchmarks.empty import ONE_BY_ONE
from clickstream import ClickstreamClient
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream_server.embedded import EmbeddedMongo, die_with_parent
from clickstream_server.storage.mongo.driver import CODEC, MAJORITY_READ, MAJORITY_WRITE
from clickstream_server.storage.mongo.indexes import ensure_indexes

DIRECT, PLAIN = "direct", "plain"
"""The databases of those who do without the service, on the same mongod."""
DRIVERS = {"motor": "Motor", "pymongo": "PyMongo Async"}
_START_S_MAX = 60.0
_DEADLINE_S = 60.0
"""Long, so that a busy machine gives slow figures and not none."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Service:
    """A server of ours, a client of it, and its database as PyMongo has it, to look at what was written."""

    name: str
    client: ClickstreamClient
    database: Any
    pid: int
    log: Path

    def refused(self) -> int:
        """How many calls it refused so far for its load; our client makes them again."""
        lines = [line for line in self.log.read_text().splitlines() if "reason=OVERLOADED" in line]
        return len(lines) + sum(int(line.partition("left_out=")[2] or 0) for line in lines)


@dataclass(frozen=True, slots=True)
class Empty:
    """The server that does nothing. `stub`: without our client, its retries, keepalive and deadlines."""

    client: ClickstreamClient
    stub: Any
    pid: int


@dataclass(frozen=True, slots=True)
class System:
    """What runs: servers of ours, one mongod for all, and, where asked for, the servers that do nothing."""

    services: tuple[Service, ...]
    folder: Path
    uri: str
    mongo: MongoClient[Any]
    mongod: int
    empty_servers: tuple[Empty, ...] = ()
    """One that takes calls from gRPC as ours does, and one that takes them one by one."""
    keeps: bool = False
    """What is stored stays: works come on top of it."""

    @property
    def client(self) -> ClickstreamClient:
        return self.services[0].client

    @property
    def ours(self) -> Any:
        return self.services[0].database

    @property
    def pids(self) -> dict[str, int]:
        return {"client": os.getpid(), "server": self.services[0].pid, "mongod": self.mongod}

    def cpu_s(self) -> dict[str, float]:
        """The processor's time that each process has used so far."""
        return {name: cpu_s(pid) for name, pid in self.pids.items()}

    def cache_pages(self) -> dict[str, int]:
        """How many pages mongod has read into its cache so far, and written back from it."""
        cache = self.mongo.admin.command("serverStatus")["wiredTiger"]["cache"]
        return {"read": cache["pages read into cache"], "written": cache["pages written from cache"]}

    def database(self, name: str) -> Any:
        """As durable as the service's own."""
        return database_of(self.mongo, name)

    def write_back(self) -> None:
        """Have mongod write back what it holds of earlier work: else it would do that in the time of the next one.

        That cost up to twice as much for an event, for minutes.
        """
        self.mongo.admin.command("fsync")

    async def clear(self) -> None:
        """Everything out of all databases, unless it is to stay: what follows must not be slower for what was before.

        No server may be at work.
        """
        if self.keeps:
            return
        names = [DIRECT, PLAIN, *(service.database.name for service in self.services)]
        async with AsyncMongoClient[dict[str, Any]](self.uri) as mongo:
            for name in names:
                for collection in await mongo[name].list_collection_names():
                    await mongo[name].drop_collection(collection)
                await ensure_indexes(mongo[name])


def database_of(mongo: MongoClient[Any], name: str) -> Any:
    return mongo.get_database(name, codec_options=CODEC, read_concern=MAJORITY_READ, write_concern=MAJORITY_WRITE)


@asynccontextmanager
async def started(folder: Path, driver: str) -> AsyncIterator[System]:
    """One server on this folder, and its mongod; stopped at the end."""
    async with running(folder, {DRIVERS[driver]: driver}) as system:
        yield system


@asynccontextmanager
async def running(
    folder: Path, servers: Mapping[str, str], *, empty: bool = False, keeps: bool = False
) -> AsyncIterator[System]:
    """Servers by name, each with its driver and a database of its own, and their mongod; stopped at the end."""
    async with AsyncExitStack() as stack:
        mongod = EmbeddedMongo(folder)
        uri = await mongod.start()
        stack.push_async_callback(mongod.stop)
        async with AsyncMongoClient[dict[str, Any]](uri) as client:
            for name in (DIRECT, PLAIN):
                await ensure_indexes(client[name])
        mongo: MongoClient[Any] = stack.enter_context(MongoClient(uri, tz_aware=True))
        services = [await _service(stack, mongo, folder, name, driver, uri=uri) for name, driver in servers.items()]
        pid = int((folder / "db" / "mongod.lock").read_text())  # a few bytes
        empties = (await _empty(stack), await _empty(stack, ONE_BY_ONE)) if empty else ()
        yield System(tuple(services), folder, uri, mongo, pid, empties, keeps)


async def _service(
    stack: AsyncExitStack, mongo: MongoClient[Any], folder: Path, name: str, driver: str, *, uri: str
) -> Service:
    database = f"ours-{sub(r'[^A-Za-z0-9]+', '-', name)}"
    log = folder / f"{database}.log"
    pid, address = await serve(uri, driver, stack, database=database, log=log)
    client = await stack.enter_async_context(ClickstreamClient(address, deadline_s=_DEADLINE_S))
    return Service(name, client, database_of(mongo, database), pid, log)


async def _empty(stack: AsyncExitStack, *arguments: str) -> Empty:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.empty", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    stack.push_async_callback(_stop, process)
    assert process.stdout is not None
    async with asyncio.timeout(_START_S_MAX):
        address = (await process.stdout.readline()).decode().strip()
    client = await stack.enter_async_context(ClickstreamClient(address))
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
    return Empty(client, ClickstreamServiceStub(channel), process.pid)


async def serve(
    uri: str, driver: str, stack: AsyncExitStack, *, database: str, workers: int = 1, log: Path | None = None
) -> tuple[int, str]:
    """`clickstream serve` on a free port; return its process and its address. `log`: where its log goes, else here."""
    settings = {
        "listen": "127.0.0.1:0",
        "ui-listen": "off",
        "mongodb-uri": uri,
        "mongodb-database": database,
        "mongodb-driver": driver,
        "workers": str(workers),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clickstream_server", "serve"),
        *(f"--{name}={value}" for name, value in settings.items()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent(),
        stderr=None if log is None else stack.enter_context(log.open("wb")),
    )
    stack.push_async_callback(_stop, process)
    assert process.stdout is not None
    async with asyncio.timeout(_START_S_MAX):
        first = (await process.stdout.readline()).decode().strip()
        while line := await process.stdout.readline():
            if line.startswith(b"Ctrl-C"):
                return process.pid, first.split("serves on ")[1]
    raise RuntimeError(f"the server did not start; why stands {f'in {log}' if log else 'above'}")


async def run_module(*module_and_arguments: str, **pipes: int) -> tuple[int, bytes, bytes]:
    """Run a program of ours to its end; return its exit code, output and errors. It ends with us, however we end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *module_and_arguments),
        stdin=asyncio.subprocess.DEVNULL,
        preexec_fn=die_with_parent(),
        **pipes,
    )
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out or b"", errors or b""


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.communicate()


def cpu_s(pid: int) -> float:
    """User's and system's time of all of its threads; fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def client_cpu_s() -> float:
    """The same of this process and of those that it started and that have ended: exports are programs."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cpu_s(os.getpid()) + ended.ru_utime + ended.ru_stime


def children(pid: int) -> list[int]:
    """The processes that its main thread started and that still run."""
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rss_bytes(pid: int) -> int:
    """The memory that a process has in RAM now; see proc(5)'s statm."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
