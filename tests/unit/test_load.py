"""How many calls the server takes on, by what they take: on a clock of the test's own."""

from __future__ import annotations

from clickstream_server.interceptors.load import CALLS_FREE, CALLS_MIN, Load

UNLOADED_S = 0.01
QUEUE_S_MAX = 1.0
METHOD = "/clickstream.v1.ClickstreamService/RegisterSession"


class Server:
    """Serves a given number of calls a second, at most; as many callers as there are to be try again and again."""

    def __init__(self, calls_max: int = 1_000, queue_s_max: float = QUEUE_S_MAX) -> None:
        self.now = 100.0
        self.load = Load(calls_max, queue_s_max, lambda: self.now)
        self.refused = 0

    def idle(self, calls: int = 50) -> None:
        for _ in range(calls):
            begun = self.load.begin()
            self.now += UNLOADED_S
            self.load.end(METHOD, begun, answered=True)

    def crowded(self, callers: int, lasts_s: float) -> list[float]:
        """Each call takes the longer the more there are: five at a time are served as if they were alone."""
        running: list = []
        took = []
        until = self.now + lasts_s
        while self.now < until:
            while len(running) < callers:
                if not self.load.has_room:
                    self.load.refused()
                    self.refused += 1
                    break
                running.append(self.load.begin())
            self.now += UNLOADED_S / 5
            begun = running.pop(0)
            took.append(self.now - begun.at)
            self.load.end(METHOD, begun, answered=True)
        for begun in running:
            self.load.end(METHOD, begun, answered=True)
        return took


def test_a_burst_is_no_overload() -> None:
    """Hundreds of calls at once are all admitted, as long as they are soon done."""
    server = Server()
    server.idle()
    for _ in range(20):
        server.crowded(callers=200, lasts_s=QUEUE_S_MAX / 2)
        server.idle()

    assert 0 == server.refused
    assert 1_000 == server.load.calls_bound


def test_callers_who_wait_for_their_answers_are_no_overload() -> None:
    """So many callers as are free, each calling again once it is answered, are never refused, however slow that is."""
    server = Server()
    server.idle()
    server.crowded(callers=CALLS_FREE, lasts_s=20.0)

    assert 0 == server.refused


def test_few_callers_end_an_overload() -> None:
    """Once there are only as many callers as are free, who come again after a refusal, all are admitted."""
    server = Server()
    server.idle()
    server.crowded(callers=200, lasts_s=10.0)
    bounds = [server.load.calls_bound]
    for _ in range(20):
        running = [server.load.begin() for _ in range(bounds[-1])]
        if bounds[-1] < 1_000:
            assert not server.load.has_room
        server.now += 3 * UNLOADED_S
        for begun in running:
            server.load.end(METHOD, begun, answered=True)
        server.now += 0.25
        bounds.append(server.load.calls_bound)

    assert bounds[0] < 50
    assert 1_000 in bounds


def test_a_standing_queue_is_cut_down() -> None:
    """Under lasting overload calls come to take about twice as long as unloaded, and the rest is refused."""
    server = Server()
    server.idle()
    took = server.crowded(callers=200, lasts_s=20.0)
    later = took[len(took) // 2 :]

    assert server.refused
    assert UNLOADED_S < sum(later) / len(later) < 3.5 * UNLOADED_S
    assert CALLS_MIN <= server.load.calls_bound < 50


def test_without_patience_only_a_queue_is_cut_down() -> None:
    """With 0 s for a queue that stands, calls are refused in the first moment of one, and none while there is none."""
    server = Server(queue_s_max=0.0)
    for calls in (1, 5, 50):
        server.now += 1.0
        server.idle(calls)
    server.crowded(callers=CALLS_FREE, lasts_s=5.0)
    assert 0 == server.refused
    server.crowded(callers=200, lasts_s=1.0)

    assert server.refused


def test_all_are_admitted_again_once_the_overload_is_over() -> None:
    """After a second without a refusal a burst is admitted as before."""
    server = Server()
    server.idle()
    server.crowded(callers=200, lasts_s=10.0)
    assert server.load.calls_bound < 50
    server.idle(200)
    refused = server.refused
    server.crowded(callers=200, lasts_s=QUEUE_S_MAX / 2)

    assert refused == server.refused


def test_the_upper_bound_holds_from_the_start() -> None:
    """No more calls than the setting says are in flight, whatever they take."""
    server = Server(calls_max=3)
    for _ in range(3):
        assert server.load.has_room
        server.load.begin()

    assert not server.load.has_room


def test_errors_say_nothing_of_the_load() -> None:
    """Calls that end with an error, as late as they may, do not make the others refused."""
    server = Server()
    server.idle()
    for _ in range(1_000):
        begun = server.load.begin()
        server.now += 1.0
        server.load.end(METHOD, begun, answered=False)

    assert 1_000 == server.load.calls_bound


def test_a_pause_is_no_queue() -> None:
    """Bursts with pauses between them are admitted, also if the calls before a pause were slow to the last."""
    server = Server()
    server.idle()
    for _ in range(5):
        server.crowded(callers=200, lasts_s=QUEUE_S_MAX * 0.7)
        server.now += 5.0

    assert 0 == server.refused
    assert 1_000 == server.load.calls_bound


def test_a_pause_ends_an_overload() -> None:
    """Whoever calls after a time in which nobody did is not refused for what was before."""
    server = Server()
    server.idle()
    server.crowded(callers=200, lasts_s=10.0)
    assert server.load.calls_bound < 50
    refused = server.refused
    server.now += 60.0
    server.crowded(callers=200, lasts_s=QUEUE_S_MAX / 2)

    assert refused == server.refused


def test_a_server_that_starts_into_a_flood_finds_its_measure() -> None:
    """Where no call was ever alone, the bound comes down as far as on a server that has seen idle times."""
    cold, warm = Server(), Server()
    warm.idle()
    for server in (cold, warm):
        server.crowded(callers=600, lasts_s=60.0)

    assert cold.load.calls_bound <= 2 * warm.load.calls_bound
