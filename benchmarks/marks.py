"""Marks: what a work has to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from benchmarks.contest import Result


@dataclass(frozen=True, slots=True)
class Mark:
    """`of(result, ours)` gives a figure for each round; their median is held against the bound."""

    text: str
    bound: float
    at_least: bool
    of: Callable[[Result, str], list[float]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A mark, and the figures found for it: by contestant of ours (the first one counts), one a round."""

    work: str
    mark: str
    bound: float
    at_least: bool
    figures: dict[str, list[float]]

    @property
    def found(self) -> float:
        return median(next(iter(self.figures.values())))

    @property
    def reached(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*self.__slots__, "found", "reached")}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        return cls(**{name: given[name] for name in cls.__slots__})


def at_least(share: float, other: str) -> Mark:
    """Our rate is to be so many times the other's."""
    text = f"≥ {share:g} of {other}" if share < 1 else f"≥ {share:g} times {other}"
    return Mark(text, share, at_least=True, of=lambda result, ours: result.ratios(ours, other))


def at_most_ms(bound: float, others: Sequence[str] = ()) -> Mark:
    """A call of ours is to take at most so many milliseconds longer than one of each of the others together."""

    def of(result: Result, ours: str) -> list[float]:
        theirs = [[run.call_ms for run in result.runs[other]] for other in others]
        rounds = zip(result.runs[ours], *theirs, strict=True)
        return [run.call_ms - sum(other) for run, *other in rounds]

    text = f"≤ {bound:g} ms{' over ' + ' + '.join(others) if others else ''}"
    return Mark(text, bound, at_least=False, of=of)
