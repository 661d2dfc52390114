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
from torch.utils.data import DataLoader

from clickstream import SyncClickstreamClient
from clickstream.datasets.torch import BatchDataset


def numbers_and_pid(examples: list[dict[str, Any]]) -> tuple[list[int], int]:
    return [example["session_number"] for example in examples], os.getpid()


def loader_class(todo: dict[str, Any]) -> type[DataLoader]:
    if "checkpoints" not in todo:
        return DataLoader
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader


def main(target: str, batch_id: str, todo: dict[str, Any]) -> None:
    client = SyncClickstreamClient(target)
    if todo.get("connect_first"):
        client.get_batch(batch_id)
    dataset = BatchDataset(client, batch_id, **todo.get("dataset", {}))
    loader = loader_class(todo)(dataset, batch_size=10, collate_fn=numbers_and_pid, **todo.get("loader", {}))
    if todo.get("load"):
        loader.load_state_dict(torch.load(todo["load"]))
    for epoch in todo.get("epochs", [0]):
        if not todo.get("load"):
            dataset.set_epoch(epoch)
        for step, (numbers, pid) in enumerate(loader):
            line = json.dumps({"epoch": epoch, "numbers": numbers, "pid": pid})
            os.write(1, f"{line}\n".encode())  # whole: other ranks write to the same pipe
            if step == todo.get("kill_at"):
                os.kill(pid, 9)
            if step == todo.get("checkpoints", {}).get("at"):
                torch.save(loader.state_dict(), todo["checkpoints"]["file"])
                return


def rank_main(rank: int, target: str, batch_id: str, todo: dict[str, Any]) -> None:
    torch.distributed.init_process_group("gloo", init_method=todo["init"], rank=rank, world_size=todo["ranks"])
    main(target, batch_id, todo)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    given = json.loads(sys.argv[3])
    if "ranks" in given:
        torch.multiprocessing.spawn(rank_main, (sys.argv[1], sys.argv[2], given), nprocs=given["ranks"])
    else:
        main(sys.argv[1], sys.argv[2], given)
