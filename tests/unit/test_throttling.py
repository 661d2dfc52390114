"""What a client repeats and holds back after refusals: on a clock and with chances of the test's own."""

from __future__ import annotations

from random import Random

import pytest

from clickstream.throttling import Throttle

CALLS_PER_S = 1000
IN_FLIGHT = 16
"""So many can wait at the server."""


class Caller:
    """Calls at a steady rate; the server accepts so many of what is sent each second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.throttle = Throttle(lambda: self.now, Random(1).random)

    def calls(self, lasts_s: float, *, accepted_per_s: float = 0.0, share: float = 0.0) -> tuple[float, float]:
        """The server accepts so many a second, or this share of all; return sent and accepted a second."""
        sent = accepted = 0
        room = 0.0
        for _ in range(round(lasts_s * CALLS_PER_S)):
            self.now += 1 / CALLS_PER_S
            room = min(IN_FLIGHT, room + accepted_per_s / CALLS_PER_S)
            if not self.throttle.admits():
                continue
            sent += 1
            if room >= 1 or accepted < int(sent * share):
                room = max(0, room - 1)
                accepted += 1
                self.throttle.accepted()
            else:
                self.throttle.refused()
        return sent / lasts_s, accepted / lasts_s


def test_all_is_sent_while_nothing_is_refused() -> None:
    """A server that accepts everything is asked for everything."""
    assert (1000, 1000) == Caller().calls(10, accepted_per_s=1000)


def test_a_thousand_refusals_are_free() -> None:
    """Calls are made again, and all are sent, until a thousand more were refused than accepted."""
    throttle = Throttle(lambda: 0.0, lambda: 0.0)
    for _ in range(Throttle.FREE - 1):
        throttle.refused()
    assert (True, True) == (throttle.retries, throttle.admits())
    throttle.refused()

    assert (False, False) == (throttle.retries, throttle.admits())


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_where_most_is_accepted_nothing_is_held_back(share: float) -> None:
    """Where less is refused than accepted, all is sent for as long as it lasts: another server may have more room."""
    sent, _ = Caller().calls(60, share=share)

    assert 1000 == sent


def test_what_is_sent_comes_down_to_little_more_than_is_accepted() -> None:
    """A server that accepts two fifths of what is asked for gets about 1.5 times that, and still accepts as many."""
    caller = Caller()
    caller.calls(10, accepted_per_s=400)
    sent, accepted = caller.calls(10, accepted_per_s=400)

    assert 540 < sent < 660
    assert accepted > 390


def test_some_are_always_sent() -> None:
    """A server that refuses everything is asked again and again: for about a third of what there is."""
    caller = Caller()
    caller.calls(10)
    sent, _ = caller.calls(10)

    assert 280 < sent < 390


def test_all_is_sent_again_once_all_is_accepted() -> None:
    """Seconds after a server refused everything for long, it is asked for everything, and calls are made again."""
    caller = Caller()
    caller.calls(60)
    caller.calls(6, accepted_per_s=1000)

    assert (1000, 1000) == caller.calls(5, accepted_per_s=1000)
    assert caller.throttle.retries


def test_a_pause_is_a_new_beginning() -> None:
    """After a while without calls, what was refused before it holds nothing back."""
    caller = Caller()
    caller.calls(10)
    caller.now += 10

    assert all(caller.throttle.admits() for _ in range(100))
