"""What tests run against: real servers in this process, and real server processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clickstream import ClickstreamClient
from clickstream_server import app
from clickstream_server.config import Settings
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.observer import NOBODY, StorageObserver

PATIENCE_S = 30.0
"""How long a condition is awaited before a test fails. Never a measure of speed."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def turns_of_others() -> Iterator[Callable[[], int]]:
    """How many turns another task on the event loop has had inside the context."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    try:
        yield lambda: turns
    finally:
        task.cancel()


async def eventually(condition: Callable[[], Awaitable[Any]], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Await the condition until it returns something true; return that."""
    give_up_at = monotonic() + patience_s
    while True:
        if found := await condition():
            return found
        assert monotonic() < give_up_at, f"never came true: {what}"
        await asyncio.sleep(0.02)


async def stands_still(read: Callable[[], Any]) -> Any:
    """The value once it has not changed for half a second: there is no event that tells of nothing happening."""
    value, since = read(), monotonic()
    while monotonic() - since < 0.5:
        await asyncio.sleep(0.02)
        if read() != value:
            value, since = read(), monotonic()
    return value


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def free_address() -> str:
    """An address that nobody has now."""
    return f"127.0.0.1:{free_port()}"


async def health_of(address: str, service: str = "") -> int | None:
    """What health says there, over a connection of its own, under this name; None: nothing."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S
            )
        except grpc.aio.AioRpcError:
            return None
    return answer.status


async def until_health(address: str, status: int, service: str = "") -> None:
    """Wait until health says this."""

    async def is_said() -> bool:
        return status == await health_of(address, service)

    await eventually(is_said, f"health of {address} is {status}")


@asynccontextmanager
async def running(mongodb_uri: str, database: str, **settings: Any) -> AsyncIterator[app.Running]:
    """A server in this process on a free port, which stops soon and has no page unless it is given one."""
    chosen = {"listen": "127.0.0.1:0", "ui_listen": "off", "drain_s": 1.0, **settings}
    async with app.running(Settings(mongodb_uri=mongodb_uri, mongodb_database=database, **chosen)) as found:
        yield found


@asynccontextmanager
async def served(mongodb_uri: str, database: str, **settings: Any) -> AsyncIterator[ClickstreamClient]:
    """As `running`, and a client of it."""
    async with running(mongodb_uri, database, **settings) as found, ClickstreamClient(found.address) as client:
        yield client


@asynccontextmanager
async def opened_dao(
    uri: str, settings: Settings, observer: StorageObserver = NOBODY
) -> AsyncIterator[MongoClickstreamDao]:
    """The storage, connected, checked and ready. Raises StartFailure."""
    async with app.connected_dao(uri, settings, observer) as (dao, until_ready):
        await until_ready()
        yield dao


class ServerProcess:
    """`clickstream serve` as a process of its own. `alive`: those that a test that failed may have left behind."""

    alive: ClassVar[set[ServerProcess]] = set()

    def __init__(self, process: asyncio.subprocess.Process, address: str, output: list[str]) -> None:
        self._process = process
        self.address = address
        self.output = output
        self.page = self.health_address = ""
        self._said = bytearray()
        # Always: once a pipe is full that nobody reads, the server stands still in its next line.
        self._hearing = asyncio.create_task(self._hear())
        self._heard = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it has said on stderr so far."""
        return self._said.decode(errors="replace")

    async def _hear(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(2**16):
            self._said += piece

    @classmethod
    async def start(cls, *, environment: dict[str, str] | None = None, **settings: Any) -> ServerProcess:
        """Start it with these settings (`listen` is a free port unless given) and wait until it serves."""
        arguments = [
            f"--{name.replace('_', '-')}={value}" for name, value in {"listen": "127.0.0.1:0", **settings}.items()
        ]
        process = await start_program("serve", *arguments, **(environment or {}))
        output: list[str] = []
        found = cls(process, "", output)
        cls.alive.add(found)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await process.stdout.readline()).decode():
                output.append(line.rstrip("\n"))
                if line.startswith("Ctrl-C"):
                    break
        first = output[0] if output else ""
        if "serves on " not in first:
            await found.exited()
            raise AssertionError(f"the server did not start: {output} {found.errors}")
        found.address = first.split("serves on ")[1]
        found.page = next((line.split()[1] for line in output if line.startswith("page:")), "")
        return found

    async def says(self, text: str) -> None:
        """Wait until it has said this on stderr, behind what was waited for before."""

        async def said_or_ended() -> bool:
            return text in self.errors[self._heard :] or self._hearing.done()

        await eventually(said_or_ended, f"it says {text!r}")
        place = self.errors.find(text, self._heard)
        assert place >= 0, f"it ended without {text!r}: {self.errors}"
        self._heard = place + len(text)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self.exited()

    async def stop(self) -> int:
        """SIGTERM, as an orchestrator does it; return the exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        return await self.exited()

    async def exited(self) -> int:
        """Wait until it is gone, and all that it said on stderr is kept; return the exit code."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(self._process.stdout.read(), asyncio.shield(self._hearing))
            code = await self._process.wait()
        self.alive.discard(self)
        return code


async def start_program(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """Run `clickstream` with these arguments, and none of the settings that this environment may have.

    Servers have no page unless it is asked for: many run at once, and they would quarrel about its port.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLICKSTREAM_")}
    clean["CLICKSTREAM_UI_LISTEN"] = "off"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clickstream_server", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean | environment,
    )


async def run_program(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `clickstream` to its end; return its exit code, output and errors."""
    return await ended(await start_program(*arguments, **environment))


async def run_python(*arguments: str) -> tuple[int, str, str]:
    """Run a Python program to its end, which may take a few times as long; return its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    return await ended(process, 3 * PATIENCE_S)  # a thousand calls take 5 s, and six times that beside other tests


async def ended(process: asyncio.subprocess.Process, patience_s: float = PATIENCE_S) -> tuple[int, str, str]:
    """The exit code of a process that ends by itself, what it printed yet, and its errors. It is killed otherwise."""
    try:
        async with asyncio.timeout(patience_s):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), (errors or b"").decode()


def worker_pids(supervisor: int) -> dict[int, int]:
    """The processes of a server's workers by their numbers."""
    found = {}
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with suppress(OSError):  # it has ended by now
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "clickstream_server.workers.worker" in command:
                found[int(command[-2])] = int(pid)
    return found


def mongod_pid(data_dir: Path) -> int:
    """The process of the mongod that has this data folder."""
    return int((data_dir / "db" / "mongod.lock").read_text())


def rss_bytes(pid: int) -> int:
    """The memory that a process has in RAM now; see proc(5)'s statm."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def runs(pid: int) -> bool:
    """Whether there is such a process; one that ended and was not yet reaped does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended while this was read
        return False
    return state != "Z"


async def freeze(pid: int) -> None:
    """Have a process stand still, all of its threads, which takes them a moment; until SIGCONT."""
    os.kill(pid, signal.SIGSTOP)

    async def stands() -> bool:
        return all(state == "T" for state in _states(pid))

    await eventually(stands, f"process {pid} stands still")


def _states(pid: int) -> list[str]:
    """What each of its threads does; see proc(5)."""
    return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]


async def group_commit_runs() -> bool:
    """Whether a server in this process is numbering sessions now."""
    return any(task.get_name() == "Registrar" for task in asyncio.all_tasks())
