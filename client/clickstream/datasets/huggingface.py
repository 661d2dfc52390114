"""A sealed batch as a streaming data set of Hugging Face's `datasets`. Needs the extra `[huggingface]`."""

from __future__ import annotations

from collections.abc import Iterator

import datasets

from clickstream.datasets.batch import BatchExamples
from clickstream.datasets.example import Example
from clickstream.datasets.plan import Shard
from clickstream.datasets.schema import EXAMPLE
from clickstream.sync_client import SyncClickstreamClient


def batch_to_huggingface(
    client: SyncClickstreamClient,
    batch_id: str,
    *,
    num_shards: int = 64,
    include_irrelevant: bool = False,
    events_limit: int | None = None,
) -> datasets.IterableDataset:
    """The examples of a sealed batch as an IterableDataset in so many shards, each a range of numbers.

    Shuffling, splitting over workers and nodes, and checkpoints are those of `datasets`, which shares out whole shards:
    let `num_shards` be a multiple of the workers of all nodes. Nothing is asked of the server before it is iterated;
    then it raises what `BatchExamples` raises.
    """
    if num_shards < 1:
        raise ValueError("num_shards must be at least 1")
    return datasets.IterableDataset.from_generator(
        _examples,
        features=datasets.Features.from_arrow_schema(EXAMPLE),
        gen_kwargs={
            "client": client,
            "batch_id": batch_id,
            "include_irrelevant": include_irrelevant,
            "events_limit": events_limit,
            "shards": [Shard(number, num_shards) for number in range(num_shards)],
        },
    )


def _examples(
    client: SyncClickstreamClient,
    batch_id: str,
    *,
    include_irrelevant: bool,
    events_limit: int | None,
    shards: list[Shard],
) -> Iterator[Example]:
    for shard in shards:
        yield from BatchExamples(
            client, batch_id, include_irrelevant=include_irrelevant, events_limit=events_limit, shard=shard
        )
