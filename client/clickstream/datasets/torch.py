"""A sealed batch as a data set for PyTorch's loaders. Needs the extra `[torch]`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from clickstream.datasets.batch import BUFFER_SIZE, BatchExamples
from clickstream.datasets.epoch import State
from clickstream.datasets.example import Example
from clickstream.datasets.plan import Shard
from clickstream.errors import ClickstreamError
from clickstream.sync_client import SyncClickstreamClient


class WorkerError(RuntimeError):
    """What the service answered to a worker. The loader hands on text only, and cuts that of a ClickstreamError."""


class BatchDataset(BatchExamples, IterableDataset):  # type: ignore[misc]  # torch is not installed where types are checked
    """`BatchExamples`, shared out over the workers of a DataLoader and over distributed ranks.

        dataset = BatchDataset(SyncClickstreamClient("127.0.0.1:50051"), batch_id, shuffle=True, seed=1)
        for examples in DataLoader(dataset, batch_size=64, collate_fn=list):

    All workers of all ranks together yield every example once, whatever their numbers. The rank is that of
    torch.distributed, if that is initialized when the data set is iterated or sent to a worker, unless it is given; so
    one that is made before the ranks are spawned may be handed to all of them. `set_epoch` reaches workers that run
    already, and is of its rank alone. With torchdata's StatefulDataLoader it can go on in mid-epoch.

    The client must not have been used in this process before if workers are forked: they would raise ForkedProcess.
    """

    def __init__(
        self,
        client: SyncClickstreamClient,
        batch_id: str,
        *,
        shuffle: bool = False,
        seed: int = 0,
        buffer_size: int = BUFFER_SIZE,
        include_irrelevant: bool = False,
        events_limit: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size go together: give both or neither")
        super().__init__(
            client,
            batch_id,
            shuffle=shuffle,
            seed=seed,
            buffer_size=buffer_size,
            include_irrelevant=include_irrelevant,
            events_limit=events_limit,
        )
        self._given_rank = None if rank is None or world_size is None else (rank, world_size)
        self._trainer_rank: tuple[int, int] | None = None
        """That of the process which has sent the data set here."""
        self._own_epoch = _shared(0)
        """This process shares it with the workers that it forks, and sends it to those that it spawns."""
        self._sent_epoch = self._own_epoch
        self._sent_to: int | None = None
        self._loaded_by: int | None = None

    @property
    def epoch(self) -> int:
        return int(self._epoch_here)

    def set_epoch(self, epoch: int) -> None:
        self._epoch_here.fill_(epoch)

    @property
    def _epoch_here(self) -> torch.Tensor:
        """What counts in this process."""
        spawned_worker = get_worker_info() is not None and self._sent_to == os.getpid()
        return self._sent_epoch if spawned_worker else self._own_epoch

    def load_state_dict(self, state: State) -> None:
        """As that of `BatchExamples`, for a pass in this process: a worker has to load it itself."""
        super().load_state_dict(state)
        self._loaded_by = os.getpid()

    def __iter__(self) -> Iterator[Example]:
        if get_worker_info() is None:
            return super().__iter__()
        if self._loaded is not None and self._loaded_by != os.getpid():
            raise ValueError(
                "a checkpoint was loaded in the trainer, where the workers of every epoch would find it again: use "
                "torchdata's StatefulDataLoader, or no workers"
            )
        with _readable_errors():
            return _readable(super().__iter__())

    def _reader(self) -> Shard:
        worker = get_worker_info()
        of_process = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return Shard(*self._rank(), *of_process)

    def _rank(self) -> tuple[int, int]:
        return self._given_rank or _distributed_rank() or self._trainer_rank or (0, 1)

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker knows nothing of torch.distributed, so its trainer's rank, where it has one, goes along."""
        return super().__getstate__() | {"_trainer_rank": _distributed_rank() or self._trainer_rank}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a worker the sender sets the epoch; a rank has one of its own, since one may be ahead of another."""
        self.__dict__.update(state)
        self._sent_epoch, self._sent_to = self._own_epoch, os.getpid()
        self._own_epoch = _shared(int(self._sent_epoch))


def _shared(epoch: int) -> torch.Tensor:
    return torch.full((), epoch, dtype=torch.int64).share_memory_()


def _distributed_rank() -> tuple[int, int] | None:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def _readable(examples: Iterator[Example]) -> Generator[Example, None, None]:
    with _readable_errors():
        yield from examples


@contextmanager
def _readable_errors() -> Generator[None, None, None]:
    try:
        yield
    except ClickstreamError as error:
        raise WorkerError(f"{type(error).__name__}: {error.message}") from error
