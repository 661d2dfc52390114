"""BatchDataset under PyTorch's loaders, with real worker processes; skipped where PyTorch is missing.

What shares, shuffles and resumes is tested without PyTorch in `test_batch_examples.py`, since it is large.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from made import RELEVANT

from clickstream import SyncClickstreamClient
from clickstream.datasets import BatchExamples, Shard

pytest.importorskip("torch", reason="needs PyTorch: make test-torch")

from clickstream.datasets.torch import BatchDataset  # only where it can be imported

PROGRAM = Path(__file__).with_name("torch_program.py")
PATIENCE_S = 120.0
"""PyTorch takes seconds to be imported, in each process anew."""
STARTS = pytest.mark.parametrize("start", ["fork", "spawn"])

NEEDS_TORCHDATA = pytest.mark.skipif(
    not find_spec("torchdata"), reason="needs torchdata, and with it PyTorch 2: make test-torch TORCH=pypi"
)


async def trained(client: SyncClickstreamClient, batch_id: str, **todo: Any) -> tuple[list[dict[str, Any]], int, str]:
    """Run the program; return the lines that it printed, its exit code and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), client.target, batch_id, json.dumps(todo)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return [json.loads(line) for line in output.splitlines()], process.returncode or 0, errors.decode()


def numbers(lines: list[dict[str, Any]], epoch: int = 0) -> list[int]:
    return list(chain.from_iterable(line["numbers"] for line in lines if line["epoch"] == epoch))


def workers(number: int, start: str = "spawn", **more: Any) -> dict[str, Any]:
    return {"num_workers": number, "multiprocessing_context": start, **more}


# --- sharing --------------------------------------------------------------------------------------------------------


@STARTS
@pytest.mark.parametrize("number", [1, 3])
async def test_workers_share_a_batch(client: SyncClickstreamClient, batch_id: str, number: int, start: str) -> None:
    """All workers of a loader together yield every example once, forked or spawned."""
    lines, code, errors = await trained(client, batch_id, loader=workers(number, start))

    assert (0, RELEVANT) == (code, sorted(numbers(lines))), errors
    assert number == len({line["pid"] for line in lines})


@pytest.mark.parametrize("loader", [{}, workers(2, "fork"), workers(2, "spawn")], ids=["none", "fork", "spawn"])
async def test_ranks_share_a_batch(
    client: SyncClickstreamClient, batch_id: str, loader: dict[str, Any], tmp_path: Path
) -> None:
    """The ranks of torch.distributed share a batch without being told, with workers and without."""
    distributed = {"ranks": 2, "init": f"file://{tmp_path / 'init'}"}
    lines, code, errors = await trained(client, batch_id, loader=loader, **distributed)

    assert (0, RELEVANT) == (code, sorted(numbers(lines))), errors


@pytest.mark.parametrize("loader", [{}, workers(2, "spawn")], ids=["none", "spawn"])
async def test_ranks_share_a_data_set_made_before_them(
    client: SyncClickstreamClient, batch_id: str, loader: dict[str, Any], tmp_path: Path
) -> None:
    """Ranks that get one data set from the process which spawns them share the batch, with workers and without."""
    distributed = {"ranks": 2, "init": f"file://{tmp_path / 'init'}", "made_first": True}
    lines, code, errors = await trained(client, batch_id, loader=loader, **distributed)

    assert (0, RELEVANT) == (code, sorted(numbers(lines))), errors


async def test_each_rank_has_its_epoch(client: SyncClickstreamClient, batch_id: str, tmp_path: Path) -> None:
    """A rank that goes on to its next epoch takes none of the others along, though all got the same data set."""
    distributed = {"ranks": 2, "init": f"file://{tmp_path / 'init'}", "made_first": True}
    lines, code, errors = await trained(client, batch_id, own_epochs=[3, 4], epochs=[], **distributed)

    assert (0, {0: 3, 1: 4}) == (code, {line["rank"]: line["epoch"] for line in lines}), errors


async def test_an_epoch_reaches_workers_that_were_forked_before(
    client: SyncClickstreamClient, batch_id: str, tmp_path: Path
) -> None:
    """Workers of a rank that was handed the data set take its next epoch, though they ran before it was first set."""
    loader, shuffled = workers(2, "fork", persistent_workers=True), {"shuffle": True, "seed": 1}
    handed = {"ranks": 1, "init": f"file://{tmp_path / 'init'}", "made_first": True}
    lines, code, errors = await trained(client, batch_id, loader=loader, dataset=shuffled, epochs=[None, 2], **handed)
    again, _, _ = await trained(client, batch_id, loader=loader, dataset=shuffled, epochs=[2])

    assert (0, RELEVANT) == (code, sorted(numbers(lines, 2))), errors
    assert numbers(lines, 2) == numbers(again, 2)


def test_ranks_can_be_given(client: SyncClickstreamClient, batch_id: str) -> None:
    """A rank that is given is used, and one without a world size is refused."""
    parts = [BatchDataset(client, batch_id, rank=rank, world_size=3) for rank in range(3)]

    assert RELEVANT == [example["session_number"] for part in parts for example in part]
    with pytest.raises(ValueError, match="go together"):
        BatchDataset(client, batch_id, rank=1)


def test_events_can_be_limited(client: SyncClickstreamClient, batch_id: str) -> None:
    """With `events_limit` examples have so many events at most, and say how many are stored."""
    examples = list(BatchDataset(client, batch_id, events_limit=0))

    assert {(0, 1), (0, 2)} == {(len(example["clicks"]), example["event_count"]) for example in examples}


# --- order ----------------------------------------------------------------------------------------------------------


async def test_each_epoch_has_its_order(client: SyncClickstreamClient, batch_id: str) -> None:
    """`set_epoch` reaches workers that live on: other epochs have other orders, and the same has the same."""
    loader = workers(2, persistent_workers=True)
    shuffled = {"shuffle": True, "seed": 1}
    lines, code, errors = await trained(client, batch_id, loader=loader, dataset=shuffled, epochs=[1, 2])
    again, _, _ = await trained(client, batch_id, loader=loader, dataset=shuffled, epochs=[2])

    assert (0, RELEVANT) == (code, sorted(numbers(lines, 1))), errors
    assert numbers(lines, 1) != numbers(lines, 2)
    assert numbers(lines, 2) == numbers(again, 2)
    assert 2 == len({line["pid"] for line in lines})


@NEEDS_TORCHDATA
@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("dataset", [{}, {"shuffle": True, "buffer_size": 50}], ids=["in order", "shuffled"])
async def test_a_stateful_loader_goes_on(
    client: SyncClickstreamClient, batch_id: str, dataset: dict[str, Any], number: int, tmp_path: Path
) -> None:
    """A StatefulDataLoader in a new process goes on from a checkpoint in mid-epoch with just the rest, in order."""
    about = {"dataset": dataset, "loader": workers(number) if number else {}, "epochs": [5]}
    file = str(tmp_path / "checkpoint")
    whole, _, _ = await trained(client, batch_id, checkpoints={}, **about)
    before, _, errors = await trained(client, batch_id, checkpoints={"at": 9, "file": file}, **about)
    after, code, more_errors = await trained(client, batch_id, checkpoints={}, load=file, **about)

    assert (0, 100) == (code, len(numbers(before, 5))), errors + more_errors
    assert RELEVANT == sorted(numbers(whole, 5))
    assert numbers(whole, 5) == numbers(before, 5) + numbers(after, 5)


@STARTS
@pytest.mark.parametrize("dataset", [{}, {"shuffle": True, "buffer_size": 50}], ids=["in order", "shuffled"])
async def test_workers_go_on_from_checkpoints(
    client: SyncClickstreamClient, batch_id: str, dataset: dict[str, Any], start: str
) -> None:
    """Workers that load their checkpoints, of an epoch that the trainer has not set, bring just the rest of it."""
    states, before = [], []
    for worker in range(2):
        part = BatchExamples(client, batch_id, shard=Shard(0, 1, worker, 2), **dataset)
        part.set_epoch(5)
        before += [example["session_number"] for example in islice(part, 20 + worker)]
        states.append(part.state_dict())
    about = {"dataset": dataset, "loader": workers(2, start), "epochs": [None]}
    after, code, errors = await trained(client, batch_id, states=states, **about)

    assert (0, RELEVANT) == (code, sorted(before + list(chain.from_iterable(line["numbers"] for line in after)))), (
        errors
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


@STARTS
async def test_a_killed_worker_is_an_error(client: SyncClickstreamClient, batch_id: str, start: str) -> None:
    """A worker that is killed in mid-epoch ends the epoch with an error; it is never a short epoch."""
    lines, code, errors = await trained(client, batch_id, loader=workers(2, start, prefetch_factor=1), kill_at=3)

    assert 1 == code
    assert "DataLoader worker" in errors
    assert "exited unexpectedly" in errors or "killed by signal" in errors
    assert len(numbers(lines)) < len(RELEVANT)


@STARTS
async def test_a_trainers_checkpoint_is_not_for_workers(
    client: SyncClickstreamClient, batch_id: str, start: str
) -> None:
    """One that the trainer has loaded is refused by workers: else each epoch would begin at it, without a word."""
    part = BatchExamples(client, batch_id)
    next(iter(part))
    about = {"loader": workers(1, start), "epochs": [None, None]}
    lines, code, errors = await trained(client, batch_id, loaded_first=part.state_dict(), **about)

    assert ([], 1) == (lines, code)
    assert "loaded in the trainer" in errors


async def test_a_fork_after_the_first_call_is_an_error(client: SyncClickstreamClient, batch_id: str) -> None:
    """Workers forked after the client was used raise ForkedProcess, which says what to do, instead of hanging."""
    lines, code, errors = await trained(client, batch_id, loader=workers(2, "fork"), connect_first=True)

    assert ([], 1) == (lines, code)
    assert "ForkedProcess" in errors
    assert "multiprocessing_context='spawn'" in errors


@STARTS
async def test_an_error_in_a_worker_reaches_the_trainer(client: SyncClickstreamClient, start: str) -> None:
    """What a worker is refused, an unknown batch say, is raised by the loader under its name."""
    lines, code, errors = await trained(client, "no-such-batch", loader=workers(2, start))

    assert ([], 1) == (lines, code)
    assert "BatchNotFound" in errors
    assert "there is no batch 'no-such-batch'" in errors
