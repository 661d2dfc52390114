"""What can be measured: the list of works, and how each is run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import at_size, behind, follow, memory, overload, report, start, workers
from benchmarks.bulk import ImportSessions, StreamEvents
from benchmarks.calls import GetSession, PushEvents, Register, RegisterOne
from benchmarks.contest import Contest, Result, run_contest
from benchmarks.growing import GetBatchByEvents, GetSessionByCallers, ImportByEvents, RegisterByCallers
from benchmarks.indexes import ImportByIndexes
from benchmarks.reads import Export, GetBatch
from benchmarks.system import DRIVERS, System, running, started
from benchmarks.tables import Table


@dataclass(frozen=True, slots=True)
class Work:
    """Something to be measured. `run` gets the options and a folder of its own; `tables` shows what it found.

    `contests`: what it is made of, if it can share a system with others.
    """

    run: Callable[[argparse.Namespace, Path], Awaitable[Sequence[Any]]]
    tables: Callable[[Sequence[Any]], Sequence[Table]]
    contests: Sequence[type[Contest]] = ()


CONTESTS: list[type[Contest]] = [
    Register,
    RegisterOne,
    PushEvents,
    StreamEvents,
    ImportSessions,
    GetSession,
    GetBatch,
    Export,
]


def _contests(*kinds: type[Contest]) -> Work:
    async def run(options: argparse.Namespace, folder: Path) -> Sequence[Any]:
        async with _system(options, folder) as system:
            return [await _run(kind(system), options) for kind in kinds]

    return Work(run, report.contest_tables, kinds)


def _system(options: argparse.Namespace, folder: Path) -> AbstractAsyncContextManager[System]:
    return running(folder, {DRIVERS[driver]: driver for driver in options.drivers}, empty=True)


async def run_works(names: Sequence[str], options: argparse.Namespace, folder: Path) -> dict[str, Sequence[Any]]:
    """Run one work, or several contests on one system; return what each found."""
    if len(names) == 1:
        return {names[0]: await WORKS[names[0]].run(options, folder)}
    async with _system(options, folder) as system:
        return {name: [await _run(kind(system), options) for kind in WORKS[name].contests] for name in names}


def groups(names: Sequence[str], *, quick: bool) -> list[list[str]]:
    """What is to run on one system. That saves time, and lets a work find the server as others left it."""
    if not quick:
        return [[name] for name in names]
    together = [name for name in names if WORKS[name].contests]
    return [*filter(None, [together]), *([name] for name in names if not WORKS[name].contests)]


async def _run(contest: Contest, options: argparse.Namespace) -> Result:
    items = options.items or (contest.quick_items if options.quick else contest.items)
    rounds = options.rounds or (2 if options.quick else contest.rounds)
    await contest.system.clear()
    return await run_contest(contest, items=items, rounds=rounds, progress=_say)


def _on_a_system(
    measure: Callable[[System, argparse.Namespace], Awaitable[Sequence[Any]]],
) -> Callable[[argparse.Namespace, Path], Awaitable[Sequence[Any]]]:
    async def run(options: argparse.Namespace, folder: Path) -> Sequence[Any]:
        async with started(folder, options.drivers[0]) as system:
            return await measure(system, options)

    return run


async def _follow(system: System, options: argparse.Namespace) -> Sequence[Any]:
    return [
        await follow.run_follow(system, number, sessions=options.items or follow.ITEMS, progress=_say)
        for number in range(1, (options.rounds or 5) + 1)
    ]


async def _behind(system: System, options: argparse.Namespace) -> Sequence[Any]:
    return [await behind.run_behind(system, sessions=options.items or behind.ITEMS, progress=_say)]


async def _memory(system: System, options: argparse.Namespace) -> Sequence[Any]:
    sessions = options.items or (10_000 if options.quick else memory.ITEMS)
    return await memory.run_memory(system, sessions=sessions, progress=_say)


async def _start(options: argparse.Namespace, folder: Path) -> Sequence[Any]:
    (driver, *_), rounds = options.drivers, options.rounds or (2 if options.quick else start.ROUNDS)
    return [await start.run_start(folder, DRIVERS[driver], driver, rounds=rounds, progress=_say)]


async def _at_size(options: argparse.Namespace, folder: Path) -> Sequence[Any]:
    (driver, *_), rounds = options.drivers, options.rounds or (2 if options.quick else at_size.ROUNDS)
    sizes = at_size.sizes(options.items, quick=options.quick)
    named = (DRIVERS[driver], driver)
    return await at_size.run_at_size(folder, named, sizes=sizes, rounds=rounds, progress=_say)


def _sized_tables(results: Sequence[at_size.Sized]) -> Sequence[Table]:
    return report.contest_tables([sized.result for sized in results])


async def _overload(system: System, options: argparse.Namespace) -> Sequence[Any]:
    return [await overload.run_overload(system, seconds=options.items or overload.SECONDS, progress=_say)]


async def _workers(options: argparse.Namespace, folder: Path) -> Sequence[Any]:
    rounds, count = options.rounds or 5, options.items or workers.ITEMS
    return await workers.run_workers(folder, options.drivers[0], rounds=rounds, count=count, progress=_say)


MARKED: dict[str, Work] = {kind.name: _contests(kind) for kind in CONTESTS} | {
    at_size.NAME: Work(_at_size, _sized_tables),
    memory.NAME: Work(_on_a_system(_memory), report.growth_tables),
    start.NAME: Work(_start, report.contest_tables),
}
"""Those that have a mark to reach."""

WORKS = MARKED | {
    "by-callers": _contests(RegisterByCallers, GetSessionByCallers),
    "by-events": _contests(GetBatchByEvents, ImportByEvents),
    "by-indexes": _contests(ImportByIndexes),
    follow.NAME: Work(_on_a_system(_follow), report.follow_tables),
    behind.NAME: Work(_on_a_system(_behind), report.caught_up_tables),
    overload.NAME: Work(_on_a_system(_overload), report.overload_tables),
    workers.NAME: Work(_workers, report.rate_tables),
}


def _say(line: str) -> None:
    print(line, file=sys.stderr)
