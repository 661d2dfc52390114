"""The worker processes: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.workers.watch import watched
from clickstream_server.workers.words import FAILED, HANGS_AFTER_S, SERVING

_log = logging.getLogger(__name__)
_EARLY_S = 10.0
"""A worker that served for less has died early."""
_EARLY_DEATHS_MAX = 5
_PAUSE_S, _PAUSE_S_MAX = 0.1, 5.0
_LINE_BYTES_MAX = 16 * 1024 * 1024
"""Of what a worker has counted: about a hundred times of what it is."""


class CrewObserver(Protocol):
    """Is told of the workers."""

    def heard(self, worker: int, line: bytes) -> None:
        """The worker has told what it has counted so far."""

    def ended(self, worker: int) -> None:
        """Its process has ended."""

    def started_again(self) -> None:
        """A worker that died is started again."""


class Crew:
    """`count` workers, numbered from 1. One that dies is started again."""

    def __init__(self, count: int, observer: CrewObserver, *, drain_s: float) -> None:
        self._observer = observer
        loop = asyncio.get_running_loop()
        self._count = count
        self._stop_s = drain_s + HANGS_AFTER_S
        self._order: asyncio.Future[bytes] = loop.create_future()
        self._all_serve: asyncio.Future[None] = loop.create_future()
        self._given_up: asyncio.Future[str] = loop.create_future()
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._serving: set[int] = set()
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def serves(self) -> bool:
        """Whether any worker does."""
        return bool(self._serving)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def spawn(self) -> None:
        """Start the processes. They load what they need, and wait for `serve`."""
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(1, self._count + 1)]

    async def serve(self, settings: Settings) -> None:
        """Have them serve with these settings; return when all do. Raises StartFailure."""
        self._order.set_result(settings.model_dump_json(exclude_unset=True).encode() + b"\n")
        await self._unless_given_up(self._all_serve)

    async def wait(self, stop: asyncio.Event) -> None:
        """Return once `stop` is set. Raises StartFailure if none serves any more, however often they are started."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await self._unless_given_up(stopped)
        finally:
            stopped.cancel()

    async def _unless_given_up(self, awaited: asyncio.Future[Any]) -> None:
        await asyncio.wait([awaited, self._given_up], return_when=asyncio.FIRST_COMPLETED)
        if self._given_up.done():
            raise StartFailure(self._given_up.result())

    async def stop(self) -> None:
        """Have all stop in order, and kill those that hang. Twice is once."""
        if not self._keepers:
            return
        self._stopping.set()
        self._order.cancel()
        for process in self._processes.values():
            _let_go(process)
        await asyncio.wait(self._keepers, timeout=self._stop_s)
        if hanging := await self.kill():
            raise StartFailure(f"{hanging} of {self._count} workers did not stop in time and were killed")

    async def kill(self) -> int:
        """Kill all that run; return how many these were. Twice is once."""
        if not self._keepers:
            return 0
        self._stopping.set()
        self._order.cancel()
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            process.kill()
        await asyncio.wait(self._keepers)
        return len(running)

    # --- one worker -------------------------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Start this worker, and again whenever it ends, until all are to stop."""
        deaths = 0
        while not self._stopping.is_set() and not self._given_up.done():
            report, ended, served_s = await self._serve_once(number)
            if self._stopping.is_set():
                return
            deaths = 1 if served_s > _EARLY_S else deaths + 1
            self._give_up_if_hopeless(number, report, deaths, ended)
            if self._given_up.done():  # what is said of that says why
                return
            _log.error("worker %d %s; it is started again", number, ended)
            self._observer.started_again()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(_PAUSE_S_MAX, _PAUSE_S * 2 ** min(deaths - 1, 10)))

    async def _serve_once(self, number: int) -> tuple[str, str, float]:
        """Start it and have it serve until it ends.

        Returns its report ("": it made none), how it ended, and for how many seconds it served.
        """
        try:
            process = self._processes[number] = await _spawned(number)
        except OSError as error:
            return "", f"cannot be started: {error.strerror}", 0.0
        assert process.stdin is not None
        assert process.stdout is not None
        if self._stopping.is_set():
            _let_go(process)
        exited: asyncio.Future[Any] = asyncio.ensure_future(process.wait())
        await asyncio.wait([self._order, exited], return_when=asyncio.FIRST_COMPLETED)
        if self._order.done() and not self._order.cancelled():
            process.stdin.write(self._order.result())
        report = (await process.stdout.readline()).decode().strip()
        began = monotonic()
        if report == SERVING:
            self._serving.add(number)
            if len(self._serving) == self._count and not self._all_serve.done():
                self._all_serve.set_result(None)
            await self._hear(number, process, process.stdout)
        await process.stdout.read()
        await exited
        self._observer.ended(number)
        self._serving.discard(number)
        return report, _how_it_ended(process, report), monotonic() - began

    async def _hear(self, number: int, process: asyncio.subprocess.Process, said: asyncio.StreamReader) -> None:
        """Pass on what a worker that serves says, until it has ended; if it falls silent it is ended."""
        async with watched(number, process) as watch:
            async for line in said:
                watch.heard()
                if line.endswith(b"\n") and line.strip():  # else it died while it told, or has nothing to tell
                    self._observer.heard(number, line)
            await process.wait()

    def _give_up_if_hopeless(self, number: int, report: str, deaths: int, ended: str) -> None:
        """At the start what keeps one from serving will keep the next; later, workers that serve are worth more."""
        if self._given_up.done() or report == SERVING:
            return
        at_start = not self._all_serve.done()
        if at_start and report:
            self._given_up.set_result(report.removeprefix(FAILED).strip())
        elif deaths >= _EARLY_DEATHS_MAX and (at_start or not self._serving):
            self._given_up.set_result(f"worker {number} does not start, tried {deaths} times: it {ended}")


async def _spawned(number: int) -> asyncio.subprocess.Process:
    """A new process: spawned, since neither gRPC nor the drivers survive a fork."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "clickstream_server.workers.worker", str(number)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
        start_new_session=True,  # Ctrl-C is for the supervisor, which then stops its workers in its turn
    )


def _let_go(process: asyncio.subprocess.Process) -> None:
    """The end of its stdin tells a worker to stop."""
    assert process.stdin is not None
    process.stdin.close()


def _how_it_ended(process: asyncio.subprocess.Process, report: str) -> str:
    code, which = process.returncode, f"(process {process.pid})"
    assert code is not None
    if report.startswith(FAILED):
        return f"{which} cannot serve: {report.removeprefix(FAILED).strip()}"
    return f"{which} ended with code {code}" if code >= 0 else f"{which} was ended by {signal.Signals(-code).name}"
