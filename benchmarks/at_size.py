"""The works on databases of several sizes, side by side: does anything get slower with what is stored?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from benchmarks.bulk import ImportSessions, StreamEvents
from benchmarks.calls import GetSession, PushEvents, Register
from benchmarks.contest import Contest, Contestant, Result, run_contest
from benchmarks.fill import Filled, fill
from benchmarks.marks import Verdict
from benchmarks.reads import Export, GetBatch
from benchmarks.system import Service, System, running

NAME = "at-size"
ROUNDS = 3
_SIZES = (20_000, 200_000, 2_000_000)
_QUICK_SIZES = (1_000, 10_000)
_BATCH = 20_000
_LARGE_BATCH = 1_000_000
_SHARE = 0.9
_FIRST_MS = 20


class FirstMessage(Contest):
    """From asking for a batch to its first message: of the database's largest batch, one after the other."""

    name = "first-message"
    unit = "streams"
    items: ClassVar[int] = 50
    quick_items: ClassVar[int] = 10
    in_ms = True

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self.filled: dict[str, Filled] = {}

    async def prepare(self, items: int, seed: int) -> None:  # noqa: ARG002  # it is only read
        self._count = items

    async def clickstream(self, service: Service) -> list[float]:
        return [await self._first(service) for _ in range(self._count)]

    async def _first(self, service: Service) -> float:
        began = perf_counter()
        async with aclosing(service.client.get_batch_pages(self.filled[service.name].batch_ids[0])) as pages:
            page = await anext(pages)
            took = perf_counter() - began
        assert page.sessions[0].session_number == 1
        return took


@dataclass(frozen=True, slots=True)
class Sized:
    """A work at several sizes. The result's contestants are the sizes, the largest first."""

    result: Result
    who: str
    sizes: Sequence[int]

    def verdicts(self) -> list[Verdict]:
        largest, *_, smallest = self.result.ours
        if self.result.name == FirstMessage.name:
            batch = _large_batch(self.sizes)
            figures = {self.who: self.result.figures(largest)}
            return [Verdict(f"first-message, batch of {batch:,}", f"≤ {_FIRST_MS} ms", _FIRST_MS, False, figures)]
        figures = {self.who: self.result.ratios(largest, smallest)}
        return [Verdict(f"{self.result.name}, {largest}", f"≥ {_SHARE} of {smallest}", _SHARE, True, figures)]

    def as_json(self) -> dict[str, Any]:
        return self.result.as_json() | {
            "sizes": list(self.sizes),
            "marks": [verdict.as_json() for verdict in self.verdicts()],
        }


def sizes(largest: int | None, *, quick: bool) -> Sequence[int]:
    """How many sessions the databases have; `largest` is the caller's choice, of `least` or more."""
    usual = _QUICK_SIZES if quick else _SIZES
    return (usual[0], largest) if largest else usual


def least(*, quick: bool) -> int:
    """So many the largest database has at least: a large batch beside one as large as the smallest database."""
    return 2 * sizes(None, quick=quick)[0]


async def run_at_size(
    folder: Path, driver: tuple[str, str], *, sizes: Sequence[int], rounds: int, progress: Callable[[str], None]
) -> list[Sized]:
    """Fill a database of each size, then run every work on all of them in turns. `driver`: its name and setting."""
    sizes = sorted(sizes, reverse=True)
    names = {f"{size:,} stored": size for size in sizes}
    async with running(folder, dict.fromkeys(names, driver[1]), keeps=True) as system:
        filled = {}
        for service in system.services:
            size = names[service.name]
            batch = min(_BATCH, sizes[-1])
            batch_sizes = (_large_batch(sizes) if size == sizes[0] else batch, batch)
            filled[service.name] = await asyncio.to_thread(fill, service.database, size, batch_sizes=batch_sizes)
            progress(f"{NAME}: {size:,} sessions are stored")
        found = []
        for number, (kind, items) in enumerate(_works(min(sizes)).items()):
            contest = kind(system)
            contest.filled = filled
            contest.wanted = items
            result = await run_contest(
                contest, items=items, rounds=rounds, progress=progress, seed=1_000 * (number + 1)
            )
            found.append(Sized(result, driver[0], sizes))
        return found


def _large_batch(sizes: Sequence[int]) -> int:
    """About half of the largest; what is left of that is whole batches, as the works read the last one."""
    largest, batch = max(sizes), min(_BATCH, *sizes)
    others = largest - min(largest // 2, _LARGE_BATCH)
    return largest - others // batch * batch


def _works(smallest: int) -> dict[Any, int]:
    """Each with how many items; less of them where all is small."""
    batch = min(_BATCH, smallest)
    return {
        _alone(Register): batch // 10,
        _alone(PushEvents): batch // 10,
        _alone(StreamEvents): batch * 2,
        _alone(ImportSessions): batch // 4,
        _alone(GetSession): batch // 10,
        _alone(GetBatch): batch,
        _alone(Export): batch,
        FirstMessage: min(50, batch // 100),
    }


def _alone(kind: type[Contest]) -> type[Contest]:
    """The same work without others, and without their marks."""

    class Alone(kind):  # type: ignore[misc, valid-type]
        marks = ()

        def others(self) -> Sequence[Contestant]:
            return ()

    return Alone
