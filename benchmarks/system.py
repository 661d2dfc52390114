"""The system that is measured: a mongod and a server, each a process of its own, and a client here."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from clickstream import ClickstreamClient
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.storage.mongo.driver import CODEC, MAJORITY_READ, MAJORITY_WRITE
from clickstream_server.storage.mongo.indexes import ensure_indexes

OURS, DIRECT = "ours", "direct"
"""The two databases on one mongod: what the service writes, and what is written by hand."""
_START_S_MAX = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class System:
    """What runs. `ours` and `direct` are PyMongo's databases, for the contestants by hand and for the checks."""

    client: ClickstreamClient
    ours: Any
    direct: Any
    pids: dict[str, int]

    def cpu_s(self) -> dict[str, float]:
        """The processor's time that each process has used so far."""
        return {name: cpu_s(pid) for name, pid in self.pids.items()}


@asynccontextmanager
async def started(folder: Path, driver: str) -> AsyncIterator[System]:
    """Start everything on this folder, and stop it at the end."""
    async with AsyncExitStack() as stack:
        mongod = EmbeddedMongo(folder)
        uri = await mongod.start()
        stack.push_async_callback(mongod.stop)
        async with AsyncMongoClient[dict[str, Any]](uri) as mongo:
            await ensure_indexes(mongo[DIRECT])
        server, address = await serve(uri, driver, stack, database=OURS)
        mongo_sync: MongoClient[Any] = stack.enter_context(MongoClient(uri, tz_aware=True))
        ours, direct = (
            mongo_sync.get_database(name, codec_options=CODEC, read_concern=MAJORITY_READ, write_concern=MAJORITY_WRITE)
            for name in (OURS, DIRECT)
        )
        client = await stack.enter_async_context(ClickstreamClient(address))
        mongod_pid = int((folder / "db" / "mongod.lock").read_text())  # a few bytes
        yield System(client, ours, direct, {"client": os.getpid(), "server": server, "mongod": mongod_pid})


async def serve(uri: str, driver: str, stack: AsyncExitStack, *, database: str, workers: int = 1) -> tuple[int, str]:
    """`clickstream serve` on a free port; return its process and its address."""
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
    )
    stack.push_async_callback(_stop, process)
    assert process.stdout is not None
    async with asyncio.timeout(_START_S_MAX):
        first = (await process.stdout.readline()).decode().strip()
        while line := await process.stdout.readline():
            if line.startswith(b"Ctrl-C"):
                return process.pid, first.split("serves on ")[1]
    raise RuntimeError("the server did not start; what is wrong stands above")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.communicate()


def cpu_s(pid: int) -> float:
    """User's and system's time of all of its threads; fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def children(pid: int) -> list[int]:
    """The processes that its main thread started and that still run."""
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rss_bytes(pid: int) -> int:
    """The memory that a process has in RAM now; see proc(5)'s statm."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
