"""`python -m benchmarks.sizing`: what sessions and events take on MongoDB's disk and in its indexes.

With `--log FILE` a log of your own is stored, as `clickstream import` does it; else sessions are made up.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import workload
from benchmarks.system import System, run_module, started
from clickstream import ImportChunk, ImportConfig, ImportSummary
from clickstream_server.bulk.import_command import NOT_ALL_STORED
from clickstream_server.storage.mongo.indexes import EVENTS, SESSIONS

CHUNK = 500
_MIB = 1024 * 1024


class Size(NamedTuple):
    """Bytes for each document of a collection."""

    collection: str
    documents: int
    bson: float
    disk: float
    indexes: float

    @property
    def disk_in_all(self) -> float:
        return self.documents * (self.disk + self.indexes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000, help="how many to make up (%(default)s)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="store this log instead")
    given = parser.parse_args()
    _show(asyncio.run(_measured(given.sessions, given.log)))


async def _measured(sessions: int, log: Path | None) -> list[Size]:
    with TemporaryDirectory(prefix="clickstream-sizing-") as folder:
        async with started(Path(folder), "motor") as system:
            if log is None:
                await _make_up(system, sessions)
            else:
                await _store(system, log)
            system.write_back()  # else what waits for a checkpoint is not counted
            return [_size(system, name) for name in (SESSIONS, EVENTS)]


async def _make_up(system: System, sessions: int) -> None:
    made = workload.items(sessions, seed=0)

    async def chunks() -> AsyncIterator[ImportChunk]:
        sequence = 0
        while chunk := list(islice(made, CHUNK)):
            sequence += 1
            yield ImportChunk(sequence, chunk)

    answer = None
    async for answer in system.client.import_sessions(ImportConfig(import_id="sizing"), chunks()):  # noqa: B007
        pass
    assert isinstance(answer, ImportSummary)
    assert answer.sessions.inserted == sessions, answer


async def _store(system: System, log: Path) -> None:
    code, _, _ = await run_module("clickstream_server", "import", str(log), "--target", system.client.target)
    assert code in {0, NOT_ALL_STORED}, "the log was not imported; why stands above"


def _size(system: System, name: str) -> Size:
    found = system.ours.command("collStats", name)
    count = found["count"]
    return Size(
        name,
        count,
        bson=found["size"] / count,
        disk=found["storageSize"] / count,
        indexes=found["totalIndexSize"] / count,
    )


def _show(sizes: list[Size]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="bytes for each document")
    for title in ("collection", "documents", "as BSON", "on disk", "in indexes", "in all, MiB"):
        table.add_column(title, justify="left" if title == "collection" else "right")
    for size in sizes:
        figures = (size.bson, size.disk, size.indexes)
        table.add_row(
            size.collection,
            f"{size.documents:,}",
            *(f"{figure:,.0f}" for figure in figures),
            f"{size.disk_in_all / _MIB:,.1f}",
        )
    console.print(table)


main()
