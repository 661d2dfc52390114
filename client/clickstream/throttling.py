"""Client-side throttling: what a client does about a server that refuses calls for its load."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from time import monotonic


class Throttle:
    """Decides which calls of one method are sent, and sent again, by how many were accepted and how many refused.

    Refused calls may be retried as long as no more are refused than accepted, and for `FREE` beyond that, so that a
    burst gets through. Past that the overload is a lasting one, in which a refusal costs the server half of what a call
    does. Then nothing is retried, and calls are held back until no more than `SENT_PER_ACCEPTED` times as many are sent
    as are accepted; but at least a third is sent, so that it shows when more are accepted.

    The rule is that of client-side throttling in Google's Site Reliability Engineering, "Handling Overload".
    """

    FREE = 1_000
    SENT_PER_ACCEPTED = 1.5
    HELD_BACK_MOST = 2 / 3
    FEW = 8
    """A surplus of so few calls means nothing: after a pause, nothing is held back."""
    MEMORY_S = 1.0
    """In so long, what was counted falls to a third (1/e)."""
    _TICK_S = 0.05

    def __init__(self, clock: Callable[[], float] = monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._since = clock()
        self._asked = self._accepted = 0.0
        self._left = self.FREE
        """So many more may still be refused than are accepted."""
        self._holds_back = False

    @property
    def retries(self) -> bool:
        """Whether a refused call may be made again."""
        return not self._holds_back

    def admits(self) -> bool:
        """Whether a call may be sent. If not, it counts as one that was refused."""
        if not self._holds_back:
            return True
        self._forget()
        surplus = self._asked - self.SENT_PER_ACCEPTED * self._accepted - self.FEW
        if surplus <= 0:
            self._holds_back = False
        elif self._chance() < min(self.HELD_BACK_MOST, surplus / self._asked):
            self._asked += 1
            return False
        return True

    def accepted(self) -> None:
        """The server took a call on, whatever came of it."""
        self._forget()
        self._asked += 1
        self._accepted += 1
        self._left = min(self.FREE, self._left + 1)

    def refused(self) -> None:
        """The server refused a call for its load."""
        self._forget()
        self._asked += 1
        self._left = max(0, self._left - 1)
        self._holds_back |= not self._left

    def _forget(self) -> None:
        now = self._clock()
        if now - self._since >= self._TICK_S:
            kept = math.exp((self._since - now) / self.MEMORY_S)
            self._asked *= kept
            self._accepted *= kept
            self._since = now
