"""Much of something, in parts that may be held or done at once; and results, given back to their parts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_parts(things: Iterable[T], weight_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The things in their order, in parts that weigh `most` at most, or have one thing that weighs more."""
    part: list[T] = []
    total = 0
    for thing in things:
        weight = weight_of(thing)
        if part and total + weight > most:
            yield part
            part, total = [], 0
        part.append(thing)
        total += weight
    if part:
        yield part


def shares(results: Sequence[T], sizes: Iterable[int]) -> Iterator[Sequence[T]]:
    """Consecutive runs of the results, of these sizes: where parts were done together, each part's own."""
    at = 0
    for size in sizes:
        yield results[at : at + size]
        at += size
