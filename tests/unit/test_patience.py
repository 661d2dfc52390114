"""How long a stream that broke is taken up again."""

from __future__ import annotations

import pytest

from clickstream.errors import InvalidCredentials
from clickstream.resume import Patience, backoff_s


def test_pauses_double_and_end_at_two_seconds() -> None:
    """Each pause is twice the one before, up to two seconds, also after as many tries as a night has."""
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0] == [backoff_s(tries) for tries in range(7)]
    assert {2.0} == {backoff_s(tries) for tries in (1_023, 1_024, 1_000_000)}


@pytest.mark.parametrize("timeout_s", [0.0, float("inf")])
def test_a_token_that_changes_is_tried_a_few_times(timeout_s: float) -> None:
    """Where each token is refused, a stream ends after a few tries, however patient it is, and then anew."""
    patience = Patience(timeout_s, token_changes=True)
    refused = InvalidCredentials("the token is not known")

    assert not patience.allows(refused)  # nothing has come with any token
    for _ in range(2):
        patience.renew()
        assert [True] * 3 + [False] == [patience.allows(refused) for _ in range(4)]


def test_a_token_that_does_not_change_is_tried_once() -> None:
    """A stream whose token is a fixed one ends when it is refused."""
    patience = Patience(60.0)
    patience.renew()

    assert not patience.allows(InvalidCredentials("the token was revoked"))
