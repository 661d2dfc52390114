"""Running contestants side by side: a warm-up, then rounds in alternating order, each checked."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.system import System

CLICKSTREAM, DIRECT = "clickstream", "direct"
_WARM_UP_SHARE = 10


class Contest(ABC):
    """One work, done by the service and by hand. `unit` is what is counted."""

    name: str
    unit: str
    items: int
    """How many by default."""

    def __init__(self, system: System) -> None:
        self.system = system

    @abstractmethod
    async def prepare(self, items: int, seed: int) -> None:
        """Lay ready what both contestants need; not timed."""

    @abstractmethod
    async def clickstream(self) -> None:
        """Do it through our client and server."""

    @abstractmethod
    async def direct(self) -> None:
        """Do it straight on PyMongo."""

    @abstractmethod
    async def check(self) -> None:
        """Fail unless both did all of it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant, once: how long it took, and the processor's time by process."""

    seconds: float
    cpu_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of a contest."""

    name: str
    unit: str
    items: int
    runs: dict[str, list[Run]]

    def rates(self, contestant: str) -> list[float]:
        """Items a second, by round."""
        return [self.items / run.seconds for run in self.runs[contestant]]

    @property
    def ratios(self) -> list[float]:
        """Our rate over the direct one, by round: what a noisy neighbour does to a round, it does to both."""
        return [ours / theirs for ours, theirs in zip(self.rates(CLICKSTREAM), self.rates(DIRECT), strict=True)]

    def cpu_micros(self, contestant: str) -> dict[str, float]:
        """The processor's time for one item by process, the median in microseconds."""
        runs = self.runs[contestant]
        return {name: median(run.cpu_s[name] for run in runs) / self.items * 1e6 for name in runs[0].cpu_s}

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "rates": {name: self.rates(name) for name in self.runs},
            "median_rates": {name: median(self.rates(name)) for name in self.runs},
            "ratios": self.ratios,
            "median_ratio": median(self.ratios),
            "cpu_micros_per_item": {name: self.cpu_micros(name) for name in self.runs},
        }


async def run_contest(contest: Contest, *, items: int, rounds: int, progress: Callable[[str], None]) -> Result:
    """Warm up, then run all rounds. Every other round begins with the other contestant."""
    contestants = [(CLICKSTREAM, contest.clickstream), (DIRECT, contest.direct)]
    runs: dict[str, list[Run]] = {name: [] for name, _ in contestants}
    for number in range(rounds + 1):
        warm_up = number == 0
        await contest.prepare(max(1, items // _WARM_UP_SHARE) if warm_up else items, seed=number)
        for name, work in contestants if number % 2 else reversed(contestants):
            run = await _timed(contest.system, work)
            if not warm_up:
                runs[name].append(run)
                progress(f"{contest.name}, round {number} of {rounds}: {name} took {run.seconds:.2f} s")
        await contest.check()
    return Result(contest.name, contest.unit, items, runs)


async def _timed(system: System, work: Callable[[], Awaitable[None]]) -> Run:
    """What was laid ready is kept out of the garbage collector's sight: no producer holds so much at once."""
    gc.collect()
    gc.freeze()
    before, start = system.cpu_s(), perf_counter()
    await work()
    seconds, after = perf_counter() - start, system.cpu_s()
    gc.unfreeze()
    return Run(seconds, {name: after[name] - before[name] for name in after})
