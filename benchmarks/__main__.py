"""`python -m benchmarks [WORK …]`: starts a MongoDB and a server of its own, measures, and prints a table."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from rich.console import Console

from benchmarks import follow, memory, report, workers
from benchmarks.contest import Result, run_contest
from benchmarks.follow import Latency, run_follow
from benchmarks.memory import Growth, run_memory
from benchmarks.system import started
from benchmarks.workers import Rate, run_workers
from benchmarks.works import CONTESTS
from clickstream_server.storage.mongo.driver import DriverName


def main() -> None:
    options = _options()
    results, grown, followed, rates = asyncio.run(_run(options))
    console = Console(width=None if sys.stdout.isatty() else 120)
    if results:
        report.show_results(results, console)
    if grown:
        report.show_growth(grown, console)
    if followed:
        report.show_follow(followed, console)
    if rates:
        report.show_rates(rates, console)
    if options.json:
        found = _machine(options) | {
            "contests": [result.as_json() for result in results],
            "memory": [growth.as_json() for growth in grown],
            "follow": [latency.as_json() for latency in followed],
            "workers": [rate.as_json() for rate in rates],
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = [*CONTESTS, follow.NAME, memory.NAME, workers.NAME]
    parser.add_argument(
        "work", nargs="*", metavar="WORK", help=f"any of {', '.join(known)}; none: {', '.join(CONTESTS)}"
    )
    parser.add_argument("--items", type=_positive, help="how many events or sessions; unset: what the work has")
    parser.add_argument("--rounds", type=_positive, default=5, help="how often each contestant runs (5)")
    parser.add_argument("--driver", choices=get_args(DriverName), default="motor", help="the server's driver (motor)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file, too")
    options = parser.parse_args()
    options.work = options.work or list(CONTESTS)
    if unknown := set(options.work) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


async def _run(options: argparse.Namespace) -> tuple[list[Result], list[Growth], list[Latency], list[Rate]]:
    """Each work on a system of its own, so that none finds what another left."""
    results: list[Result] = []
    grown: list[Growth] = []
    followed: list[Latency] = []
    rates: list[Rate] = []
    for name in options.work:
        with TemporaryDirectory(prefix="clickstream-bench-") as folder:
            if name == workers.NAME:
                sessions = options.items or workers.ITEMS
                rates += await run_workers(
                    Path(folder), options.driver, rounds=options.rounds, count=sessions, progress=_say
                )
                continue
            async with started(Path(folder), options.driver) as system:
                if name == memory.NAME:
                    grown += await run_memory(system, sessions=options.items or memory.ITEMS, progress=_say)
                    continue
                if name == follow.NAME:
                    sessions = options.items or follow.ITEMS
                    followed += [
                        await run_follow(system, number, sessions=sessions, progress=_say)
                        for number in range(1, options.rounds + 1)
                    ]
                    continue
                contest = CONTESTS[name](system)
                items = options.items or contest.items
                results.append(await run_contest(contest, items=items, rounds=options.rounds, progress=_say))
    return results, grown, followed, rates


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
