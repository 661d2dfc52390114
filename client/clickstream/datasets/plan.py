"""Who reads which numbers of a batch, and in which order. Pure.

The numbers of a sealed batch are 1 to its counter, without gaps, so all of this is known before anything is read, and
is the same in every process. An *order* is a sequence of all numbers; a *place* is an index into it. Each reader has a
range of places, cut so that together they have every place once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import NamedTuple

BLOCKS_PER_WINDOW = 8


class Shard(NamedTuple):
    """One reader among all: worker `worker` of `num_workers` in the process `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1

    def places(self, total: int) -> range:
        """Its part of so many places. First ranks share them, then workers: the ranks' shares differ by 1 at most."""
        of_rank = _share(range(total), self.rank, self.world_size)
        return _share(of_rank, self.worker, self.num_workers)


def _share(places: range, part: int, parts: int) -> range:
    if not 0 <= part < parts:
        raise ValueError(f"there is no part {part} of {parts}: parts count from 0")
    return places[len(places) * part // parts : len(places) * (part + 1) // parts]


class Span(NamedTuple):
    """The numbers from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def numbers(self) -> range:
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Window:
    """Numbers that are read together, in `spans`, and come in the order of `numbers`."""

    spans: tuple[Span, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shuffle:
    """An order that follows from the seed and the epoch.

    The batch is cut into blocks of consecutive numbers, and the blocks are shuffled. Then each reader shuffles its
    part by windows of `buffer_size` numbers, which span several blocks.
    """

    seed: int
    epoch: int
    buffer_size: int

    @property
    def block_size(self) -> int:
        return max(1, self.buffer_size // BLOCKS_PER_WINDOW)

    def windows(self, total: int, places: range) -> Iterator[Window]:
        """What the reader of these places (of so many in all) is to read, one window after the other."""
        blocks = self._blocks(total)
        starts = list(accumulate((len(block.numbers) for block in blocks), initial=0))
        for start in range(places.start, places.stop, self.buffer_size):
            stop = min(start + self.buffer_size, places.stop)
            spans = tuple(_cut(blocks, starts, start, stop))
            numbers = [number for span in spans for number in span.numbers]
            Random(f"{self.seed}/{self.epoch}/{start}").shuffle(numbers)
            yield Window(spans, tuple(numbers))

    def _blocks(self, total: int) -> list[Span]:
        size = self.block_size
        blocks = [Span(first, min(first + size - 1, total)) for first in range(1, total + 1, size)]
        Random(f"{self.seed}/{self.epoch}").shuffle(blocks)
        return blocks


def _cut(blocks: list[Span], starts: list[int], start: int, stop: int) -> Iterator[Span]:
    """The parts of the blocks that lie at the places from `start` to before `stop`; `starts`: where each block lies."""
    at = bisect_right(starts, start) - 1
    while start < stop:
        first, last = blocks[at]
        end = min(starts[at + 1], stop)
        yield Span(first + start - starts[at], last - (starts[at + 1] - end))
        start, at = end, at + 1
