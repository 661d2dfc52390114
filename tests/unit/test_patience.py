"""How long a stream that broke is taken up again."""

from __future__ import annotations

from clickstream.resume import backoff_s


def test_pauses_double_and_end_at_two_seconds() -> None:
    """Each pause is twice the one before, up to two seconds, also after as many tries as a night has."""
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0] == [backoff_s(tries) for tries in range(7)]
    assert {2.0} == {backoff_s(tries) for tries in (1_023, 1_024, 1_000_000)}
