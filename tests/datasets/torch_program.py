"""A trainer as a process of its own, for `test_torch.py`: reads a batch with a DataLoader and prints what it saw.

What it does stands in one JSON argument. It prints lines: the numbers of each list of examples, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch.distributed
import torch.multiprocessing
from torch.utils.data import DataLoader, get_worker_info

from clickstream import SyncClickstreamClient
from clickstream.datasets.torch import BatchDataset


def numbers_and_pid(examples: list[dict[str, Any]]) -> tuple[list[int], int]:
    return [example["session_number"] for example in examples], os.getpid()


class Loading:
    """What a loader does in each of its workers: it goes on from the checkpoint of that worker."""

    def __init__(self, states: list[dict[str, Any]]) -> None:
        self._states = states

    def __call__(self, worker: int) -> None:
        get_worker_info().dataset.load_state_dict(self._states[worker])


def loader_class(todo: dict[str, Any]) -> type[DataLoader]:
    if "checkpoints" not in todo:
        return DataLoader
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader


def made(target: str, batch_id: str, todo: dict[str, Any]) -> BatchDataset:
    client = SyncClickstreamClient(target)
    if todo.get("connect_first"):
        client.get_batch(batch_id)
    return BatchDataset(client, batch_id, **todo.get("dataset", {}))


def train(dataset: BatchDataset, todo: dict[str, Any]) -> None:
    given = dict(todo.get("loader", {}))
    if "states" in todo:
        given["worker_init_fn"] = Loading(todo["states"])
    if "loaded_first" in todo:
        dataset.load_state_dict(todo["loaded_first"])
    loader = loader_class(todo)(dataset, batch_size=10, collate_fn=numbers_and_pid, **given)
    if todo.get("load"):
        loader.load_state_dict(torch.load(todo["load"]))
    for epoch in todo.get("epochs", [0]):
        if epoch is not None and not todo.get("load"):
            dataset.set_epoch(epoch)
        for step, (numbers, pid) in enumerate(loader):
            line = json.dumps({"epoch": epoch, "numbers": numbers, "pid": pid})
            os.write(1, f"{line}\n".encode())  # whole: other ranks write to the same pipe
            if step == todo.get("kill_at"):
                os.kill(pid, 9)
            if step == todo.get("checkpoints", {}).get("at"):
                torch.save(loader.state_dict(), todo["checkpoints"]["file"])
                return


def rank_main(rank: int, target: str, batch_id: str, todo: dict[str, Any], handed: BatchDataset | None) -> None:
    torch.distributed.init_process_group("gloo", init_method=todo["init"], rank=rank, world_size=todo["ranks"])
    dataset = handed or made(target, batch_id, todo)
    if "own_epochs" in todo:
        dataset.set_epoch(todo["own_epochs"][rank])
        torch.distributed.barrier()
        os.write(1, f"{json.dumps({'rank': rank, 'epoch': dataset.epoch, 'numbers': []})}\n".encode())
    train(dataset, todo)
    torch.distributed.destroy_process_group()


def main(target: str, batch_id: str, todo: dict[str, Any]) -> None:
    if "ranks" not in todo:
        train(made(target, batch_id, todo), todo)
        return
    handed = made(target, batch_id, todo) if todo.get("made_first") else None
    torch.multiprocessing.spawn(rank_main, (target, batch_id, todo, handed), nprocs=todo["ranks"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
