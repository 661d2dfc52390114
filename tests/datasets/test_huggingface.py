"""A batch as a streaming data set of Hugging Face's `datasets`."""

from __future__ import annotations

import datasets
import pytest
from datasets.distributed import split_dataset_by_node
from made import RELEVANT, SESSIONS, fill

from clickstream import BatchStatusMismatch, SyncClickstreamClient
from clickstream.datasets import BatchExamples
from clickstream.datasets.huggingface import batch_to_huggingface


def numbers(data: datasets.IterableDataset) -> list[int]:
    return [example["session_number"] for example in data]


def test_the_rows_are_the_examples(client: SyncClickstreamClient, batch_id: str) -> None:
    """It yields the very examples, by number."""
    assert list(BatchExamples(client, batch_id)) == list(batch_to_huggingface(client, batch_id))


def test_more_shards_than_sessions(client: SyncClickstreamClient, batch_id: str) -> None:
    """Every session comes once with any number of shards; none is an error."""
    assert RELEVANT == numbers(batch_to_huggingface(client, batch_id, num_shards=300))
    assert SESSIONS == len(numbers(batch_to_huggingface(client, batch_id, num_shards=1, include_irrelevant=True)))
    with pytest.raises(ValueError, match="num_shards"):
        batch_to_huggingface(client, batch_id, num_shards=0)


def test_events_can_be_limited(client: SyncClickstreamClient, batch_id: str) -> None:
    """With `events_limit` rows have so many events at most, and say how many are stored."""
    limited = list(batch_to_huggingface(client, batch_id, events_limit=0))

    assert list(BatchExamples(client, batch_id, events_limit=0)) == limited
    assert {(0, 1), (0, 2)} == {(len(example["clicks"]), example["event_count"]) for example in limited}


@pytest.mark.parametrize("world_size", [2, 3])
def test_nodes_share_a_batch(client: SyncClickstreamClient, batch_id: str, world_size: int) -> None:
    """Split by `datasets` over nodes, also where the shards do not divide, every session comes once."""
    data = batch_to_huggingface(client, batch_id, num_shards=8)
    parts = [numbers(split_dataset_by_node(data, rank=rank, world_size=world_size)) for rank in range(world_size)]

    assert RELEVANT == sorted(number for part in parts for number in part)


def test_a_shuffled_pass_is_one_order_of_all(client: SyncClickstreamClient, batch_id: str) -> None:
    """Shuffled by `datasets`, every session comes once, in the same order for the same seed and epoch."""
    data = batch_to_huggingface(client, batch_id, num_shards=8).shuffle(seed=1, buffer_size=50)
    first, again = numbers(data), numbers(data)
    data.set_epoch(1)

    assert first == again
    assert first != numbers(data)
    assert RELEVANT == sorted(first)


def test_a_pass_goes_on_from_a_checkpoint(client: SyncClickstreamClient, batch_id: str) -> None:
    """A checkpoint of `datasets` in mid-epoch goes on with just the rest."""
    data, seen = batch_to_huggingface(client, batch_id, num_shards=8), []
    for example in data:
        seen.append(example["session_number"])
        if len(seen) == 100:
            break
    other = batch_to_huggingface(client, batch_id, num_shards=8)
    other.load_state_dict(data.state_dict())

    assert RELEVANT == seen + numbers(other)


def test_a_collecting_batch_is_refused(own_client: SyncClickstreamClient) -> None:
    """A batch that collects raises BatchStatusMismatch when it is iterated."""
    fill(own_client, [2])
    data = batch_to_huggingface(own_client, own_client.list_batches().batches[0].batch_id)
    with pytest.raises(BatchStatusMismatch):
        next(iter(data))
