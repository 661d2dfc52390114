"""What tests run against: real servers in this process, and real server processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from clickstream import ClickstreamClient
from clickstream_server import app
from clickstream_server.config import Settings

PATIENCE_S = 30.0
"""How long a condition is awaited before a test fails. Never a measure of speed."""


async def eventually(condition: Callable[[], Awaitable[Any]], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Await the condition until it returns something true; return that."""
    give_up_at = monotonic() + patience_s
    while True:
        if found := await condition():
            return found
        assert monotonic() < give_up_at, f"never came true: {what}"
        await asyncio.sleep(0.02)


def free_address() -> str:
    """An address that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def served(mongodb_uri: str, database: str, **settings: Any) -> AsyncIterator[ClickstreamClient]:
    """A server in this process on a free port, and a client of it."""
    chosen = Settings(
        listen="127.0.0.1:0",
        mongodb_uri=mongodb_uri,
        mongodb_database=database,
        **{"drain_s": 1.0, "ui_listen": "off", **settings},
    )
    async with app.running(chosen) as running, ClickstreamClient(running.address) as client:
        yield client


class ServerProcess:
    """`clickstream serve` as a process of its own. `alive`: those that a test that failed may have left behind."""

    alive: ClassVar[set[ServerProcess]] = set()

    def __init__(self, process: asyncio.subprocess.Process, address: str, output: list[str]) -> None:
        self._process = process
        self.address = address
        self.output = output
        self.errors = ""
        self.page = self.health_address = ""

    @property
    def pid(self) -> int:
        return self._process.pid

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
        """Wait until it has said this on stderr."""
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self._process.stderr.readline()).decode():
                self.errors += line
                if text in line:
                    return
        raise AssertionError(f"it ended without {text!r}: {self.errors}")

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
        """Wait until it is gone; keep what it said on stderr; return the exit code."""
        async with asyncio.timeout(PATIENCE_S):
            _, errors = await self._process.communicate()
        self.errors += errors.decode()
        self.alive.discard(self)
        assert self._process.returncode is not None
        return self._process.returncode


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
    process = await start_program(*arguments, **environment)
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


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
