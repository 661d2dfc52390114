"""`python -m benchmarks.datasets`: what the data sets read, as ratios to the plain client stream in the same run."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import workload
from benchmarks.system import started
from clickstream import ImportChunk, ImportConfig, SyncClickstreamClient
from clickstream.datasets import BatchExamples
from clickstream.datasets.arrow import batch_to_arrow
from clickstream.datasets.huggingface import batch_to_huggingface

CHUNK = 500
WORKERS = 2
Reader = Callable[[], int]
"""Reads the batch; returns how many sessions came."""


class Run(NamedTuple):
    """Sessions a second, and what one takes of the processor in this process (workers are others)."""

    rate: float
    cpu_micros: float


class Pair(NamedTuple):
    """A reader and the plain stream, one right behind the other: a noisy neighbour troubles both."""

    reader: Run
    plain: Run

    @property
    def ratio(self) -> float:
        return self.reader.rate / self.plain.rate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets", description=__doc__)
    parser.add_argument("--sessions", type=int, default=20_000, help="how many (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each reader runs (%(default)s)")
    given = parser.parse_args()
    _show(asyncio.run(_measured(given.sessions, given.rounds)), given.sessions)


async def _measured(sessions: int, rounds: int) -> dict[str, list[Pair]]:
    """Every reader in every round, each with a run of the plain stream right before or after it."""
    with TemporaryDirectory(prefix="clickstream-bench-") as folder:
        async with started(Path(folder), "motor") as system:
            client = SyncClickstreamClient(system.client.target)
            batch_id = _filled(client, sessions)
            readers = _readers(client, batch_id)
            pairs: dict[str, list[Pair]] = {name: [] for name in readers}
            for number in range(rounds + 1):
                for name, reader in readers.items():
                    order = (reader, _plain(client, batch_id))
                    runs = [_run(one, sessions) for one in order[:: 1 if number % 2 else -1]]
                    pair = Pair(*runs[:: 1 if number % 2 else -1])
                    print(f"round {number} of {rounds}: {name} at {pair.ratio:.2f}", file=sys.stderr)
                    if number:  # the first warms up
                        pairs[name].append(pair)
            return pairs


def _run(reader: Reader, sessions: int) -> Run:
    gc.collect()
    begun, cpu = perf_counter(), process_time()
    came = reader()
    seconds, cpu = perf_counter() - begun, process_time() - cpu
    assert sessions == came, f"{came} sessions came of {sessions}"
    return Run(sessions / seconds, cpu / sessions * 1e6)


def _filled(client: SyncClickstreamClient, sessions: int) -> str:
    items = workload.items(sessions, seed=1)
    chunks = (
        ImportChunk(sequence, chunk) for sequence, chunk in enumerate(iter(lambda: list(islice(items, CHUNK)), []), 1)
    )
    for _ in client.import_sessions(ImportConfig(import_id="bench"), chunks):
        pass
    return client.release_batch("bench").batch.batch_id


def _plain(client: SyncClickstreamClient, batch_id: str) -> Reader:
    return lambda: _count(client.get_batch_sessions(batch_id))


def _readers(client: SyncClickstreamClient, batch_id: str) -> dict[str, Reader]:
    readers: dict[str, Reader] = {
        "BatchExamples": lambda: _count(BatchExamples(client, batch_id)),
        "BatchExamples, shuffled": lambda: _count(BatchExamples(client, batch_id, shuffle=True)),
        "batch_to_arrow": lambda: sum(rows.num_rows for rows in batch_to_arrow(client, batch_id)),
        "batch_to_huggingface": lambda: _count(batch_to_huggingface(client, batch_id, num_shards=8)),
    }
    if find_spec("torch"):
        readers |= _torch_readers(client, batch_id)
    else:
        print("without the readers for PyTorch, which is not installed", file=sys.stderr)
    return readers


def _torch_readers(client: SyncClickstreamClient, batch_id: str) -> dict[str, Reader]:
    """Workers live through all rounds, so that what they take to start counts in the round that warms up only."""
    from torch.utils.data import DataLoader

    from clickstream.datasets.torch import BatchDataset

    def reader(workers: int, *, shuffle: bool) -> Reader:
        start = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
        dataset = BatchDataset(client, batch_id, shuffle=shuffle)
        loader = DataLoader(dataset, batch_size=64, collate_fn=list, num_workers=workers, **start)
        return lambda: sum(map(len, loader))

    return {
        "BatchDataset, in process": reader(0, shuffle=False),
        "BatchDataset, in process, shuffled": reader(0, shuffle=True),
        f"BatchDataset, {WORKERS} workers": reader(WORKERS, shuffle=False),
        f"BatchDataset, {WORKERS} workers, shuffled": reader(WORKERS, shuffle=True),
    }


def _count(found: Iterable[object]) -> int:
    return sum(1 for _ in found)


def _show(pairs: dict[str, list[Pair]], sessions: int) -> None:
    table = Table(title=f"{sessions:,} sessions: median (lowest to highest round)", title_justify="left")
    for heading in ("reader", "sessions a second", "the plain stream's", "ratio", "µs here, its to plain"):
        table.add_column(heading, justify="left" if heading == "reader" else "right")
    for name, found in pairs.items():
        rates = (_spread([run.rate for run in runs], ",.0f") for runs in zip(*found, strict=True))
        micros = (f"{median(run.cpu_micros for run in runs):.0f}" for runs in zip(*found, strict=True))
        table.add_row(name, *rates, _spread([pair.ratio for pair in found], ".2f"), " to ".join(micros))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _spread(figures: list[float], form: str) -> str:
    return f"{median(figures):{form}} ({min(figures):{form}} to {max(figures):{form}})"


if __name__ == "__main__":
    main()
