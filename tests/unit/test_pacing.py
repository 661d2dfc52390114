"""What a client holds back while a server refuses: on a clock and with chances of the test's own."""

from __future__ import annotations

from random import Random

from clickstream.pacing import Throttle

STEP_S = 0.001
IN_FLIGHT = 16
"""So many can wait at the server."""


class Caller:
    """Asks for a thousand calls a second; the server accepts so many of what is sent each second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.throttle = Throttle(lambda: self.now, Random(1).random)

    def calls(self, lasts_s: float, *, accepted_per_s: float = 0.0, share: float = 0.0) -> tuple[float, float]:
        """The server accepts so many a second, and this share of the others; return sent and accepted a second."""
        sent = accepted = 0
        room = 0.0
        for _ in range(round(lasts_s / STEP_S)):
            self.now += STEP_S
            room = min(IN_FLIGHT, room + accepted_per_s * STEP_S)
            if not self.throttle.admits():
                continue
            sent += 1
            if room >= 1 or (share and sent * share >= accepted + 1):
                room = max(0, room - 1)
                accepted += 1
                self.throttle.accepted()
            else:
                self.throttle.refused()
        return sent / lasts_s, accepted / lasts_s


def test_all_is_sent_while_nothing_is_refused() -> None:
    """A server that accepts everything is asked for everything."""
    assert (1000, 1000) == Caller().calls(10, accepted_per_s=1000)


def test_a_few_refusals_mean_nothing() -> None:
    """Where a tenth is refused, everything is sent: the server had a bad moment, and no overload."""
    sent, _ = Caller().calls(10, share=0.9)

    assert 1000 == sent


def test_what_is_sent_comes_down_to_little_more_than_is_accepted() -> None:
    """A server that accepts two fifths of what is asked for gets about 1.5 times that, and still accepts as many."""
    caller = Caller()
    caller.calls(5, accepted_per_s=400)
    sent, accepted = caller.calls(10, accepted_per_s=400)

    assert 540 < sent < 660
    assert accepted > 390


def test_some_are_always_sent() -> None:
    """A server that refuses everything is asked again and again: for about a fifth of what there is."""
    caller = Caller()
    caller.calls(5)
    sent, _ = caller.calls(10)

    assert 150 < sent < 250


def test_all_is_sent_again_once_all_is_accepted() -> None:
    """Some seconds after the overload everything is sent."""
    caller = Caller()
    caller.calls(20)
    caller.calls(10, accepted_per_s=1000)

    assert (1000, 1000) == caller.calls(5, accepted_per_s=1000)


def test_a_pause_is_a_new_beginning() -> None:
    """After a while without calls, what was refused before it is forgotten."""
    caller = Caller()
    caller.calls(5)
    caller.now += 20

    assert all(caller.throttle.admits() for _ in range(100))
