"""Sessions per second, from what was seen of the batches' counters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from clickstream import SessionBatch, SessionBatchStatus
from clickstream_server.ui.rate import WINDOW_S, RateMeter, Sample

BEGUN = datetime(2026, 11, 21, tzinfo=UTC)


def batch(name: str, counter: int, *, age_s: float = 0) -> SessionBatch:
    created_at = BEGUN - timedelta(seconds=age_s)
    return SessionBatch(
        batch_id=name,
        status=SessionBatchStatus.COLLECTING,
        session_counter=counter,
        created_at=created_at,
        updated_at=created_at,
    )


def test_one_look_is_no_rate() -> None:
    """What was registered before the first look says nothing about now."""
    meter = RateMeter()
    meter.observe(0.0, [batch("a", 1000)])

    assert None is meter.per_s()
    assert [] == meter.samples()


def test_the_rate_is_the_mean_of_the_last_seconds() -> None:
    """Groups come in bursts; the rate now is the mean over five seconds."""
    meter = RateMeter()
    for second, counter in enumerate([0, 1000, 1000, 1010, 1020, 1030, 1040, 1050]):
        meter.observe(float(second), [batch("a", counter)])

    assert 10.0 == meter.per_s()


def test_a_release_between_two_looks_hides_no_session() -> None:
    """The last sessions of a sealed batch count, and so do the first ones of the next."""
    meter = RateMeter()
    meter.observe(0.0, [batch("a", 10, age_s=60)])
    meter.observe(1.0, [batch("a", 15, age_s=60), batch("b", 7)])

    assert [Sample(0.0, 1.0, 12)] == meter.samples()


def test_the_first_batch_of_all_counts_from_its_first_session() -> None:
    """After a look that saw no batch, all of a new batch is new."""
    meter = RateMeter()
    meter.observe(0.0, [])
    meter.observe(2.0, [batch("a", 8)])

    assert 4.0 == meter.per_s()


def test_an_old_batch_that_comes_into_sight_is_not_new() -> None:
    """A batch that was reopened, too old to be seen before, does not count as a burst of all of its sessions."""
    meter = RateMeter()
    meter.observe(0.0, [batch("b", 5)])
    meter.observe(1.0, [batch("b", 5), batch("a", 1000, age_s=3600)])
    meter.observe(2.0, [batch("b", 5), batch("a", 1002, age_s=3600)])

    assert [0, 2] == [sample.sessions for sample in meter.samples()]


def test_a_long_time_in_which_nobody_looked_is_not_now() -> None:
    """The mean over a long pause is kept as a sample, but the rate now is not known."""
    meter = RateMeter()
    meter.observe(0.0, [batch("a", 0)])
    meter.observe(60.0, [batch("a", 600)])
    unknown = meter.per_s()
    meter.observe(61.0, [batch("a", 603)])

    assert None is unknown
    assert 3.0 == meter.per_s()
    assert [Sample(0.0, 60.0, 600), Sample(60.0, 61.0, 3)] == meter.samples()


def test_samples_are_kept_for_the_window_only() -> None:
    """However long somebody looks, memory stays bounded."""
    meter = RateMeter()
    for second in range(2000):
        meter.observe(float(second), [batch("a", second)])

    assert WINDOW_S + 1 == len(meter.samples())
