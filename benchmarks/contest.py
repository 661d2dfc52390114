"""Running contestants side by side: a warm-up, then rounds in which each has its turn, all of it checked."""

from __future__ import annotations

import asyncio
import gc
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

from benchmarks.marks import Mark, Verdict
from benchmarks.system import Service, System, client_cpu_s, cpu_s

EMPTY, ONE_BY_ONE, OUR_CLIENT = "empty", "empty, one by one", "empty, our client"
"""Those who take part and store nothing; see docs/performance.md. DIRECT and PLAIN do it by hand on MongoDB."""
_WARM_UP_SHARE = 10


@dataclass(frozen=True, slots=True)
class Contestant:
    """Does the work once. `run` may return how many seconds each of its calls took.

    `server`: the process that serves it. `database`: where it writes. `share`: how much of the work it does.
    """

    name: str
    run: Callable[[], Awaitable[list[float] | None]]
    server: int | None = None
    database: Any = None
    share: float = 1.0


class Contest(ABC):
    """One work, done by the service and by others. `unit` is what is counted."""

    name: ClassVar[str]
    unit: ClassVar[str]
    items: ClassVar[int]
    """How many by default."""
    quick_items: ClassVar[int]
    """How many where all is to be over soon."""
    rounds: ClassVar[int] = 5
    in_ms: ClassVar[bool] = False
    """Whether what counts is the time of a call, not how many are done in a second."""
    marks: ClassVar[Sequence[Mark]] = ()

    def __init__(self, system: System) -> None:
        self.system = system

    @abstractmethod
    async def prepare(self, items: int, seed: int) -> None:
        """Lay ready what all contestants need; not timed."""

    @abstractmethod
    async def clickstream(self, service: Service) -> list[float] | None:
        """Do it through our client and server."""

    def others(self) -> Sequence[Contestant]:
        """Who else does it."""
        return ()

    async def check(self, database: Any) -> None:  # noqa: B027  # readers look at what comes as it comes
        """Fail unless all of it was written to this database."""

    async def check_round(self) -> None:  # noqa: B027  # most are done with the above
        """Fail unless the round's contestants agree."""

    def contestants(self) -> list[Contestant]:
        ours = [
            Contestant(service.name, partial(self.clickstream, service), service.pid, service.database)
            for service in self.system.services
        ]
        return [*ours, *self.others()]


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant, once: how much it did in how long, and the processor's time by process.

    `pages`: how many mongod read into its cache and wrote back meanwhile. `call_ms`: the median of its calls, where
    each was timed.
    """

    items: int
    seconds: float
    cpu_s: dict[str, float]
    pages: dict[str, int]
    call_ms: float = 0.0

    @property
    def rate(self) -> float:
        return self.items / self.seconds


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of a contest. `ours`: which of the contestants are ours."""

    name: str
    unit: str
    items: int
    ours: list[str]
    runs: dict[str, list[Run]]
    in_ms: bool
    marks: Sequence[Mark]
    refused: int = 0
    """How many calls our servers refused for their load. They were made again, at our cost."""

    def figures(self, contestant: str) -> list[float]:
        """By round: milliseconds of a call where those count, else items a second."""
        return [run.call_ms if self.in_ms else run.rate for run in self.runs[contestant]]

    def ratios(self, ours: str, other: str) -> list[float]:
        """Our rate over another's, by round: what a noisy neighbour does to a round, it does to both."""
        return [mine.rate / theirs.rate for mine, theirs in zip(self.runs[ours], self.runs[other], strict=True)]

    def cpu_micros(self, contestant: str) -> dict[str, float]:
        """The processor's time for one item by process, the median in microseconds."""
        runs = self.runs[contestant]
        return {name: median(run.cpu_s[name] / run.items for run in runs) * 1e6 for name in runs[0].cpu_s}

    def pages(self, contestant: str) -> dict[str, float]:
        """How many pages mongod read and wrote for one item, the median."""
        runs = self.runs[contestant]
        return {name: median(run.pages[name] / run.items for run in runs) for name in runs[0].pages}

    def verdicts(self) -> list[Verdict]:
        return [
            Verdict(self.name, mark.text, mark.bound, mark.at_least, {name: mark.of(self, name) for name in self.ours})
            for mark in self.marks
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "items": self.items,
            "ours": self.ours,
            "refused": self.refused,
            "runs": {name: [asdict(run) for run in runs] for name, runs in self.runs.items()},
            "medians": {name: median(self.figures(name)) for name in self.runs},
            "medians_are": "milliseconds of a call" if self.in_ms else f"{self.unit} a second",
            "cpu_micros_per_item": {name: self.cpu_micros(name) for name in self.runs},
            "pages_per_item": {name: self.pages(name) for name in self.runs},
            "marks": [verdict.as_json() for verdict in self.verdicts()],
        }


async def run_contest(
    contest: Contest, *, items: int, rounds: int, progress: Callable[[str], None], seed: int = 0
) -> Result:
    """Warm up, then run all rounds. Each begins with another contestant, and none pays for what was left by another."""
    contestants, services = contest.contestants(), contest.system.services
    before = sum(service.refused() for service in services)
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        warm_up = number == 0
        wanted = max(1, items // _WARM_UP_SHARE) if warm_up else items
        await contest.prepare(wanted, seed=seed + number)
        gc.collect()
        gc.freeze()  # no producer holds so much at once: it is kept out of the garbage collector's sight
        first = number % len(contestants)
        for contestant in contestants[first:] + contestants[:first]:
            run = await _timed(contest.system, contestant, wanted)
            if not warm_up:
                runs[contestant.name].append(run)
                progress(f"{contest.name}, round {number} of {rounds}: {contestant.name} took {run.seconds:.2f} s")
        gc.unfreeze()
        for contestant in contestants:
            if contestant.database is not None:
                await contest.check(contestant.database)
        await contest.check_round()
    ours = [service.name for service in services if service.name in runs] or list(runs)[:1]
    refused = sum(service.refused() for service in services) - before
    return Result(contest.name, contest.unit, items, ours, runs, contest.in_ms, contest.marks, refused)


async def _timed(system: System, contestant: Contestant, items: int) -> Run:
    processes = {"server": contestant.server, "mongod": system.mongod}

    def used() -> dict[str, float]:
        return {"client": client_cpu_s()} | {name: cpu_s(pid) for name, pid in processes.items() if pid is not None}

    await asyncio.to_thread(system.write_back)
    pages = system.cache_pages()
    before, start = used(), perf_counter()
    calls = await contestant.run()
    seconds, after = perf_counter() - start, used()
    return Run(
        round(items * contestant.share),
        seconds,
        {name: after[name] - before[name] for name in after},
        {name: now - pages[name] for name, now in system.cache_pages().items()},
        median(calls) * 1000 if calls else 0.0,
    )
