"""`python -m benchmarks [WORK …]`: starts a MongoDB and a server of its own, measures, and prints a table."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from rich.console import Console

from benchmarks import behind, follow, memory, overload, report, workers
from benchmarks.contest import run_contest
from benchmarks.system import System, started
from benchmarks.works import CONTESTS
from clickstream_server.storage.mongo.driver import DriverName


@dataclass(frozen=True, slots=True)
class Work:
    """Something to be measured. `run` gets how many items, the options and a folder of its own.

    What it finds is shown together with that of other works which are shown in the same way.
    """

    run: Callable[[int | None, argparse.Namespace, Path], Awaitable[Sequence[Any]]]
    show: Callable[[Sequence[Any], Console], None]
    key: str
    """Under which its figures stand in the JSON."""


def main() -> None:
    options = _options()
    found = asyncio.run(_run(options))
    console = Console(width=None if sys.stdout.isatty() else 120)
    for key, results in found.items():
        next(work.show for work in WORKS.values() if work.key == key)(results, console)
    if options.json:
        figures = {key: [result.as_json() for result in results] for key, results in found.items()}
        options.json.write_text(json.dumps(_machine(options) | figures, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "work", nargs="*", metavar="WORK", help=f"any of {', '.join(WORKS)}; none: {', '.join(CONTESTS)}"
    )
    parser.add_argument(
        "--items", type=_positive, help="how many events, sessions or (overload) seconds; unset: as the work has it"
    )
    parser.add_argument("--rounds", type=_positive, default=5, help="how often each contestant runs (5)")
    parser.add_argument("--driver", choices=get_args(DriverName), default="motor", help="the server's driver (motor)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file, too")
    options = parser.parse_args()
    options.work = options.work or list(CONTESTS)
    if unknown := set(options.work) - set(WORKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


async def _run(options: argparse.Namespace) -> dict[str, list[Any]]:
    """What was found, by key. Each work has a system of its own, so that none finds what another left."""
    found: dict[str, list[Any]] = {}
    for name in options.work:
        work = WORKS[name]
        with TemporaryDirectory(prefix="clickstream-bench-") as folder:
            found.setdefault(work.key, []).extend(await work.run(options.items, options, Path(folder)))
    return found


def _on_a_system(
    measure: Callable[[System, int | None, argparse.Namespace], Awaitable[Sequence[Any]]],
) -> Callable[[int | None, argparse.Namespace, Path], Awaitable[Sequence[Any]]]:
    async def run(items: int | None, options: argparse.Namespace, folder: Path) -> Sequence[Any]:
        async with started(folder, options.driver) as system:
            return await measure(system, items, options)

    return run


def _contest(name: str) -> Work:
    async def measure(system: System, items: int | None, options: argparse.Namespace) -> Sequence[Any]:
        contest = CONTESTS[name](system)
        return [await run_contest(contest, items=items or contest.items, rounds=options.rounds, progress=_say)]

    return Work(_on_a_system(measure), report.show_results, "contests")


async def _follow(system: System, items: int | None, options: argparse.Namespace) -> Sequence[Any]:
    return [
        await follow.run_follow(system, number, sessions=items or follow.ITEMS, progress=_say)
        for number in range(1, options.rounds + 1)
    ]


async def _behind(system: System, items: int | None, _options: argparse.Namespace) -> Sequence[Any]:
    return [await behind.run_behind(system, sessions=items or behind.ITEMS, progress=_say)]


async def _memory(system: System, items: int | None, _options: argparse.Namespace) -> Sequence[Any]:
    return await memory.run_memory(system, sessions=items or memory.ITEMS, progress=_say)


async def _overload(system: System, items: int | None, _options: argparse.Namespace) -> Sequence[Any]:
    return [await overload.run_overload(system, seconds=items or overload.SECONDS, progress=_say)]


async def _workers(items: int | None, options: argparse.Namespace, folder: Path) -> Sequence[Any]:
    return await workers.run_workers(
        folder, options.driver, rounds=options.rounds, count=items or workers.ITEMS, progress=_say
    )


WORKS = {name: _contest(name) for name in CONTESTS} | {
    follow.NAME: Work(_on_a_system(_follow), report.show_follow, "follow"),
    behind.NAME: Work(_on_a_system(_behind), report.show_caught_up, "behind"),
    memory.NAME: Work(_on_a_system(_memory), report.show_growth, "memory"),
    overload.NAME: Work(_on_a_system(_overload), report.show_overload, "overload"),
    workers.NAME: Work(_workers, report.show_rates, "workers"),
}


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("grpcio", "protobuf", "pymongo", "motor", "pydantic")
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "driver": options.driver,
        "packages": {name: version(name) for name in packages},
    }


main()
