"""Memory over a long import and a long export: does anything grow with what has passed through?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from benchmarks.loads import CHUNK_SESSIONS
from benchmarks.marks import Verdict
from benchmarks.system import System, rss_bytes
from benchmarks.workload import EVENTS_PER_SESSION, items
from clickstream import ExportFilter, ImportChunk, ImportConfig, ImportSummary

NAME = "memory"
ITEMS = 1_000_000
_SAMPLE_S = 0.25
_MIB = 1024 * 1024
_GROWTH_MIB_MAX = 64


@dataclass(frozen=True, slots=True)
class Growth:
    """One process: its memory when a tenth of the sessions was through, the most after that, and at the end."""

    process: str
    work: str
    sessions: int
    after_a_tenth_mib: float
    most_mib: float
    at_the_end_mib: float
    who: str = ""
    """Whose server it is, where growth is to be judged."""

    @property
    def growth_mib(self) -> float:
        return self.most_mib - self.after_a_tenth_mib

    def verdicts(self) -> list[Verdict]:
        if not self.who:
            return []
        work = f"memory: {self.work}, {self.process}"
        return [
            Verdict(
                work, f"≤ {_GROWTH_MIB_MAX} MiB", _GROWTH_MIB_MAX, at_least=False, figures={self.who: [self.growth_mib]}
            )
        ]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "growth_mib": self.growth_mib,
            "marks": [verdict.as_json() for verdict in self.verdicts()],
        }


@dataclass(slots=True)
class Watch:
    """Samples of memory, and how many sessions were through at each."""

    pids: dict[str, int]
    total: int
    through: int = 0
    samples: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def sample(self) -> None:
        self.samples.append((self.through, {name: rss_bytes(pid) / _MIB for name, pid in self.pids.items()}))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take samples now and then, and a last one at the end."""

        async def run() -> None:
            while True:
                self.sample()
                await asyncio.sleep(_SAMPLE_S)

        running = asyncio.create_task(run())
        try:
            yield
        finally:
            running.cancel()
        self.sample()

    def passed(self, through: int, done: str, progress: Callable[[str], None]) -> None:
        """Note how many are through; say so at every tenth."""
        tenth = max(1, self.total // 10)
        if through // tenth > self.through // tenth:
            progress(f"{through:,} of {self.total:,} sessions {done}")
        self.through = through

    def growth(self, work: str, who: str = "") -> list[Growth]:
        later = [found for through, found in self.samples if through * 10 >= self.total]
        return [
            Growth(
                name,
                work,
                self.total,
                later[0][name],
                max(found[name] for found in later),
                self.samples[-1][1][name],
                who,
            )
            for name in self.pids
        ]


async def run_memory(system: System, *, sessions: int, progress: Callable[[str], None]) -> list[Growth]:
    """Import and export so many sessions, and watch server and client. Fails unless all of them came through."""
    pids = {"server": system.pids["server"], "client": os.getpid()}
    grown = []
    for work, run in (("import", _import), ("export", _export)):
        watch = Watch(pids, sessions)
        async with watch.running():
            await run(system, watch, progress)
        grown.extend(watch.growth(work, system.services[0].name))
    return grown


async def _import(system: System, watch: Watch, progress: Callable[[str], None]) -> None:
    made = items(watch.total, seed=0)

    async def chunks() -> AsyncIterator[ImportChunk]:
        sequence = 0
        while chunk := list(islice(made, CHUNK_SESSIONS)):
            sequence += 1
            yield ImportChunk(sequence, chunk)

    answer = None
    async for answer in system.client.import_sessions(ImportConfig(import_id="memory"), chunks()):
        watch.passed(answer.processed, "imported", progress)
    assert isinstance(answer, ImportSummary)
    assert answer.sessions.inserted == watch.total, answer
    assert system.ours.sessions.count_documents({}) == watch.total
    assert system.ours.events.count_documents({}) == watch.total * EVENTS_PER_SESSION


async def _export(system: System, watch: Watch, progress: Callable[[str], None]) -> None:
    trailer = None
    async for page in system.client.export_sessions(ExportFilter()):
        watch.passed(watch.through + len(page.sessions), "exported", progress)
        trailer = page.trailer
    assert trailer is not None
    assert (trailer.session_count, trailer.event_count) == (watch.total, watch.total * EVENTS_PER_SESSION), trailer
