"""What tests run against: real servers in this process, and real server processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

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


@asynccontextmanager
async def served(mongodb_uri: str, database: str, **settings: Any) -> AsyncIterator[ClickstreamClient]:
    """A server in this process on a free port, and a client of it."""
    chosen = Settings(
        listen="127.0.0.1:0", mongodb_uri=mongodb_uri, mongodb_database=database, **{"drain_s": 1.0, **settings}
    )
    async with app.running(chosen) as running, ClickstreamClient(running.address) as client:
        yield client


class ServerProcess:
    """`clickstream serve` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, output: list[str]) -> None:
        self._process = process
        self.address = address
        self.output = output

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, **settings: Any) -> ServerProcess:
        """Start it with these settings (`listen` is a free port unless given) and wait until it serves."""
        arguments = [
            f"--{name.replace('_', '-')}={value}" for name, value in {"listen": "127.0.0.1:0", **settings}.items()
        ]
        process = await start_program("serve", *arguments)
        output: list[str] = []
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await process.stdout.readline()).decode():
                output.append(line.rstrip("\n"))
                if line.startswith("Ctrl-C"):
                    break
        first = output[0] if output else ""
        if "serves on " not in first:
            _, errors = await process.communicate()
            raise AssertionError(f"the server did not start: {output} {errors.decode()}")
        return cls(process, first.split("serves on ")[1], output)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()

    async def stop(self) -> int:
        """SIGTERM, as an orchestrator does it; return the exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


async def start_program(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """Run `clickstream` with these arguments, and none of the settings that this environment may have."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLICKSTREAM_")}
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
    async with asyncio.timeout(2 * PATIENCE_S):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()
