"""A sealed batch as training data, one example a session: see docs/training.md.

`clickstream.datasets.arrow`, `.torch` and `.huggingface` hand it on, each with the extra of its name installed.
"""

from __future__ import annotations

from clickstream.datasets.batch import BatchExamples
from clickstream.datasets.epoch import EpochAccount
from clickstream.datasets.example import Action, Example, ShownResult, example_of
from clickstream.datasets.plan import Shard
from clickstream.datasets.reading import IncompleteEpoch

__all__ = [
    "Action",
    "BatchExamples",
    "EpochAccount",
    "Example",
    "IncompleteEpoch",
    "Shard",
    "ShownResult",
    "example_of",
]
