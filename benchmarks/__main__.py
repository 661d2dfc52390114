"""`python -m benchmarks [WORK …]`: starts a MongoDB and servers of its own, measures, and shows tables."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks import at_size
from benchmarks.figures import Folder
from benchmarks.report import marks_table
from benchmarks.system import DRIVERS
from benchmarks.works import MARKED, WORKS, groups, run_works


def main() -> int:
    """Return the exit code: 1 if a work failed its checks."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 140)
    folder = Folder(options.into, list(WORKS))
    failed: list[str] = []
    for names in groups(options.work, quick=options.quick):
        try:
            with TemporaryDirectory(prefix="clickstream-bench-") as place:
                found = asyncio.run(run_works(names, options, Path(place)))
        except Exception:
            traceback.print_exc()
            failed += names
            continue
        for name, results in found.items():
            tables = WORKS[name].tables(results)
            folder.keep(name, results, tables)
            for table in tables:
                table.show(console)
    if verdicts := folder.verdicts():
        marks_table(verdicts).show(console)
    print(folder.draw(), file=sys.stderr)
    if failed:
        print(f"FAILED: {', '.join(failed)}; why stands above", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("work", nargs="*", metavar="WORK", help=f"any of {', '.join(WORKS)}; none: {', '.join(MARKED)}")
    parser.add_argument(
        "--items", type=_positive, help="how many events, sessions or (overload) seconds; unset: as the work has it"
    )
    parser.add_argument("--rounds", type=_positive, help="how often each contestant runs; unset: as the work has it")
    parser.add_argument("--quick", action="store_true", help="everything small: says whether it works, not how fast")
    parser.add_argument(
        "--driver", choices=[*DRIVERS, "both"], default="motor", help="the server's driver, or both beside each other"
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        default=Path("build/bench"),
        help="for JSON, tables, pictures (%(default)s)",
    )
    options = parser.parse_args()
    options.work = options.work or list(MARKED)
    if unknown := set(options.work) - set(WORKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    if at_size.NAME in options.work and options.items and options.items < (least := at_size.least(quick=options.quick)):
        parser.error(f"{at_size.NAME} needs --items of {least} or more")
    options.drivers = list(DRIVERS) if options.driver == "both" else [options.driver]
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text}")
    return int(text)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts this with `&` has it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = main()
    except KeyboardInterrupt:  # what it had started is stopped by now
        print("stopped; the figures of works that were done are kept", file=sys.stderr)
        code = 130
    sys.exit(code)
