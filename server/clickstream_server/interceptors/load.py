"""How many calls may be in flight, from how much longer they take than on an idle server.

A burst is no overload: it waits for a moment and is gone. Nor are callers who wait for their answers before they call
again, since they cannot become more. What is to be refused is a queue that stands, which makes every call slow and
nothing faster. So all calls are admitted, up to the upper bound, until there have been many, and they have taken
several times as long as they do unloaded, for some time without a break. From then on only so many are that they take
about twice as long as unloaded, until for a second hardly anybody had to be refused. See docs/adr/0012-limiter.md.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

SLOWNESS_AIM = 2.0
"""Unary calls may take so many times as long as unloaded, on average."""
CALLS_MIN = 16
"""So many are always admitted. With 8, half as many are accepted and take as long: docs/adr/0012-limiter.md."""
CALLS_FREE = 64
"""So many at once are no overload, however long they take: they may all be of callers who wait for their answers."""
CALM_S = 1.0
"""If so many were all that there were for so long, with those that were refused, there is no overload any more."""
_UNLOADED_CALLS = 2
_WINDOW_S = 0.25
_PAUSE_S = 2 * _WINDOW_S
"""If hardly a call ran for so long, there was no queue."""
_WINDOW_CALLS = 10
_SHRINK, _GROW = 0.7, 1.1
_LEARN = 0.1


class Begun(NamedTuple):
    """When a call began, and whether there was hardly another one."""

    at: float
    unloaded: bool


class Load:
    """Counts the calls in flight and bounds them."""

    def __init__(self, calls_max: int, queue_s_max: float, clock: Callable[[], float] = monotonic) -> None:
        self._calls_max = calls_max
        self._queue_s_max = queue_s_max
        self._clock = clock
        self._unloaded_s: dict[str, float] = {}
        """How long each method takes; what it took at least, until it was measured on an idle server."""
        self._measured: set[str] = set()
        self._window_since = self._calm_since = self._refused_since = clock()
        self._refusals = 0
        self._took_s = self._expected_s = 0.0
        self._ended = 0
        self.in_flight = 0
        self.calls_bound = calls_max
        """How many may be in flight now."""

    @property
    def has_room(self) -> bool:
        """Whether another call may begin now."""
        return self.in_flight < self.calls_bound

    def refused(self) -> None:
        """A call was refused for want of room."""
        self._refusals += 1

    @property
    def _bounded(self) -> bool:
        """Whether there is an overload."""
        return self.calls_bound < self._calls_max

    def begin(self) -> Begun:
        """A call begins; return what `end` needs to know."""
        now = self._clock()
        if self.in_flight <= _UNLOADED_CALLS and now - self._window_since >= _PAUSE_S:  # what was before it is over
            self._calm_since, self.calls_bound = now, self._calls_max
        self.in_flight += 1
        return Begun(now, self._is_unloaded())

    def end(self, method: str, begun: Begun, *, answered: bool) -> None:
        """A call has ended. `answered`: not with an error, which may come soon or late for reasons of its own."""
        self.in_flight -= 1
        now = self._clock()
        if answered:
            self._note(method, now - begun.at, unloaded=begun.unloaded and self._is_unloaded())
        if now - self._window_since >= _WINDOW_S:
            self._judge(now)

    def _is_unloaded(self) -> bool:
        return self.in_flight <= _UNLOADED_CALLS and not self._bounded

    def _note(self, method: str, took_s: float, *, unloaded: bool) -> None:
        known_s = self._unloaded_s.get(method, took_s)
        if method in self._measured:
            known_s += _LEARN * (took_s - known_s) if unloaded else 0.0
        elif unloaded:
            self._measured.add(method)
            known_s = took_s
        else:
            known_s = min(known_s, took_s)
        self._unloaded_s[method] = known_s
        self._took_s += took_s
        self._expected_s += known_s
        self._ended += 1

    def _judge(self, now: float) -> None:
        """At the end of a window: is there a queue that stands, and how many calls may there be then?"""
        slowness = 0.0 if self._ended < _WINDOW_CALLS else self._took_s / self._expected_s
        self._window_since, self._ended, self._took_s, self._expected_s = now, 0, 0.0, 0.0
        calm = slowness <= SLOWNESS_AIM or self.in_flight <= CALLS_FREE
        if calm:
            self._calm_since = now
        if not self._bounded:
            if not calm and now - self._calm_since >= self._queue_s_max:
                self._refused_since, self._refusals = now, 0
                self.calls_bound = self._within(self.in_flight * SLOWNESS_AIM / slowness)
        elif self._is_over(now):
            self.calls_bound = self._calls_max
        elif slowness:
            self.calls_bound = self._within(self.calls_bound * min(_GROW, max(_SHRINK, SLOWNESS_AIM / slowness)))

    def _is_over(self, now: float) -> bool:
        """Whether there is no overload any more; looked at once in CALM_S."""
        if now - self._refused_since < CALM_S:
            return False
        calls = self.in_flight + self._refusals
        self._refused_since, self._refusals = now, 0
        return calls <= CALLS_FREE

    def _within(self, calls: float) -> int:
        return int(min(self._calls_max, max(CALLS_MIN, calls)))
