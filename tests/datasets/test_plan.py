"""Which reader gets which numbers, in which order: pure, for all splits."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream.datasets.plan import Shard, Shuffle

totals = st.integers(0, 400)
processes = st.integers(1, 5)


def readers(world_size: int, num_workers: int) -> list[Shard]:
    return [Shard(rank, world_size, worker, num_workers) for rank in range(world_size) for worker in range(num_workers)]


@given(total=totals, world_size=processes, num_workers=processes)
def test_the_readers_share_all_places(total: int, world_size: int, num_workers: int) -> None:
    """All readers' parts, one behind the other, are all places, also if the counts do not divide."""
    parts = [shard.places(total) for shard in readers(world_size, num_workers)]

    assert list(range(total)) == list(chain.from_iterable(parts))


@given(total=totals, world_size=processes, num_workers=processes)
def test_the_shares_are_even(total: int, world_size: int, num_workers: int) -> None:
    """The ranks' shares differ by one at most, and so do the workers' of one rank."""
    ranks = [len(Shard(rank, world_size).places(total)) for rank in range(world_size)]
    workers = [len(Shard(0, world_size, worker, num_workers).places(total)) for worker in range(num_workers)]

    assert max(ranks) - min(ranks) <= 1
    assert max(workers) - min(workers) <= 1
    assert ranks[0] == sum(workers)


@given(
    total=totals,
    world_size=processes,
    num_workers=processes,
    shuffle=st.builds(Shuffle, st.integers(), st.integers(0, 5), st.integers(1, 500)),
)
def test_a_shuffled_epoch_has_every_number_once(
    total: int, world_size: int, num_workers: int, shuffle: Shuffle
) -> None:
    """All readers' windows together have every number once; a window reads just what it yields, within its buffer."""
    windows = [
        window for shard in readers(world_size, num_workers) for window in shuffle.windows(total, shard.places(total))
    ]

    assert list(range(1, total + 1)) == sorted(chain.from_iterable(window.numbers for window in windows))
    for window in windows:
        assert sorted(window.numbers) == sorted(chain.from_iterable(span.numbers for span in window.spans))
        assert len(window.numbers) <= shuffle.buffer_size


def order(seed: int, epoch: int) -> list[int]:
    windows = Shuffle(seed, epoch, 100).windows(1000, range(1000))
    return [number for window in windows for number in window.numbers]


def test_the_order_follows_from_seed_and_epoch() -> None:
    """The same seed and epoch give the same order; another of either gives another."""
    assert order(1, 0) == order(1, 0)
    assert 4 == len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)})


def test_a_window_mixes_numbers_from_far_apart() -> None:
    """The first window of a shuffled epoch has numbers from all over the batch, not neighbours only."""
    first = next(iter(Shuffle(1, 0, 100).windows(1000, range(1000))))

    assert 100 == len(first.numbers)
    assert max(first.numbers) - min(first.numbers) > 500


@pytest.mark.parametrize("shard", [Shard(2, 2), Shard(-1, 2), Shard(0, 0), Shard(0, 1, 3, 3)])
def test_a_reader_that_is_none_is_refused(shard: Shard) -> None:
    """A rank or worker outside of their number raises ValueError instead of reading nothing, or what is another's."""
    with pytest.raises(ValueError, match="there is no part"):
        shard.places(10)
