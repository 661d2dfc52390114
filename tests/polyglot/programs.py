"""Programs that run as processes of their own, and what they print."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from harness import PATIENCE_S, eventually

RUN_S = 4 * PATIENCE_S
"""How long a program may run: it does many calls, next to others, on a machine that may be busy."""


class Program:
    """A program that runs. `lines`: what it has printed so far. `alive`: those that a test may have left behind."""

    alive: ClassVar[set[Program]] = set()

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._reading = asyncio.gather(_read(process.stdout, self.lines), _read(process.stderr, self.errors))

    @classmethod
    async def start(cls, *command: str, cwd: Path) -> Program:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={name: value for name, value in os.environ.items() if not name.startswith("CLICKSTREAM_")},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        program = cls(process)
        cls.alive.add(program)
        return program

    async def has_printed(self, count: int) -> None:
        """Wait until it has printed so many lines."""

        async def printed() -> bool:
            return len(self.lines) >= count

        await eventually(printed, f"{count} lines; the last of {len(self.lines)}: {self.lines[-1:]}; {self.errors}")

    async def ended(self, patience_s: float = RUN_S) -> int:
        """Wait until it has ended; return its exit code."""
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.shield(self._reading)
                code = await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"it has not ended after: {self.lines[-2:]} {self.errors[-2:]}") from None
        self.alive.discard(self)
        return code

    async def kill(self) -> None:
        """Kill it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._reading.cancel()
        self.alive.discard(self)


async def _read(stream: asyncio.StreamReader | None, lines: list[str]) -> None:
    assert stream is not None
    async for line in stream:
        lines.append(line.decode().rstrip("\n"))


async def run_to_end(*command: str, cwd: Path, patience_s: float = RUN_S) -> tuple[int, str]:
    """Run a program; return its exit code and what it printed."""
    program = await Program.start(*command, cwd=cwd)
    try:
        code = await program.ended(patience_s)
    finally:
        if program in Program.alive:
            await program.kill()
    return code, "\n".join([*program.lines, *program.errors])
