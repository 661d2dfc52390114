"""What a client does for a server that refuses calls for its load: it holds some back, and repeats only so many."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from time import monotonic

HELD_BACK_S = 0.5
"""After so long, what was held back may be tried again."""


class Throttle:
    """Holds calls back while the server refuses many of them, because a refusal costs it half of what a call does.

    What is sent comes down to 1.5 times of what is accepted, over the last seconds; at least a fifth is always sent, so
    that the client sees when it may send more, and is not kept out by others who hold nothing back. The rule is that of
    "Handling Overload" in Google's Site Reliability Engineering (client-side throttling), with a bound on what is held
    back as Envoy's admission control has it.
    """

    PER_ACCEPTED = 1.5
    """So many calls may be sent for one that is accepted."""
    FREE = 8
    """So many more than that, so that a few refusals mean nothing."""
    HELD_BACK_MOST = 0.8
    MEMORY_S = 2.0
    """A call counts for a third after so long, and so on."""
    _TICK_S = 0.05

    def __init__(self, clock: Callable[[], float] = monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._since = clock()
        self._asked = self._accepted = 0.0

    def admits(self) -> bool:
        """Whether a call may be sent. If not, it counts as one that was refused."""
        self._forget()
        surplus = self._asked - self.PER_ACCEPTED * self._accepted - self.FREE
        if surplus <= 0 or self._chance() >= min(self.HELD_BACK_MOST, surplus / self._asked):
            return True
        self._asked += 1
        return False

    def accepted(self) -> None:
        """The server took a call on, whatever came of it."""
        self._asked += 1
        self._accepted += 1

    def refused(self) -> None:
        """The server refused a call for its load."""
        self._asked += 1

    def _forget(self) -> None:
        now = self._clock()
        if now - self._since >= self._TICK_S:
            kept = math.exp((self._since - now) / self.MEMORY_S)
            self._asked *= kept
            self._accepted *= kept
            self._since = now


class Budget:
    """How often calls that were refused for the server's load are made again: no more often than others succeed.

    Whoever is a part of the load must not multiply it. Some are free, for bursts.
    """

    FREE = 1_000

    def __init__(self) -> None:
        self._left = self.FREE

    def earn(self) -> None:
        """A call was answered."""
        self._left = min(self.FREE, self._left + 1)

    def spend(self) -> bool:
        """Whether a call may be made again."""
        if not self._left:
            return False
        self._left -= 1
        return True
