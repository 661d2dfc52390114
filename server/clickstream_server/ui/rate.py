"""Sessions per second, from the batches' counters at several looks. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from clickstream.models import SessionBatch

WINDOW_S = 300.0
"""How far back the samples go."""
_NOW_S = 5.0
"""«Now» is the mean of so many seconds: single ones jump, because sessions are committed in groups."""
_LOOK_GAP_S_MAX = 10.0
"""After a longer pause the mean over it says nothing about now."""


class Sample(NamedTuple):
    """How many sessions got a number between two looks, at seconds of one steady clock."""

    begin: float
    end: float
    sessions: int


class RateMeter:
    """Watches counters that only grow, in batches that come and go."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._counters: dict[str, int] = {}
        self._newest: datetime | None = None
        self._looked_at: float | None = None

    def observe(self, at: float, batches: Iterable[SessionBatch]) -> None:
        """Take in the newest batches, and the one that collects, as they are at `at`."""
        seen = {batch.batch_id: batch for batch in batches}
        if self._looked_at is not None and at > self._looked_at:
            new = sum(max(0, batch.session_counter - self._counted(batch)) for batch in seen.values())
            self._samples.append(Sample(self._looked_at, at, new))
        while self._samples and self._samples[0].end < at - WINDOW_S:
            self._samples.popleft()
        self._looked_at = at
        self._counters = {batch_id: batch.session_counter for batch_id, batch in seen.items()}
        self._newest = max((batch.created_at for batch in seen.values()), default=self._newest)

    def _counted(self, batch: SessionBatch) -> int:
        """What the last look saw in it: nothing if it is new, all of it if it is an old one that came into sight."""
        if self._newest is None or batch.created_at > self._newest:
            return 0
        return self._counters.get(batch.batch_id, batch.session_counter)

    def per_s(self) -> float | None:
        """Sessions per second at the last look. None: not known yet, as that takes two looks."""
        recent = [
            sample
            for sample in self._samples
            if self._looked_at is not None
            and sample.end > self._looked_at - _NOW_S
            and sample.end - sample.begin <= _LOOK_GAP_S_MAX
        ]
        if not recent:
            return None
        return sum(sample.sessions for sample in recent) / sum(sample.end - sample.begin for sample in recent)

    def samples(self) -> list[Sample]:
        """The samples of the window, oldest first."""
        return list(self._samples)
