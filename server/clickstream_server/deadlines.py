"""The caller's deadline, carried beside the call so that the storage can keep within it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from time import monotonic

from clickstream.errors import DeadlineExceeded

_expires_at: ContextVar[float | None] = ContextVar("clickstream_deadline", default=None)

_ANSWER_SHARE = 0.1
_ANSWER_S_MAX = 0.5
"""What is kept back of the caller's time, so that an error arrives before the caller has given up."""


def begin_deadline(remaining_s: float | None) -> Token[float | None]:
    """What this task does from here on ends within `remaining_s` seconds (None: there is no deadline)."""
    return _expires_at.set(None if remaining_s is None else monotonic() + remaining_s)


@contextmanager
def deadline(remaining_s: float | None) -> Iterator[None]:
    """As `begin_deadline`, for the work inside."""
    token = begin_deadline(remaining_s)
    try:
        yield
    finally:
        _expires_at.reset(token)


def budget_s(timeout_s: float) -> float:
    """Seconds that one step may take: `timeout_s`, or less if the caller's deadline is nearer.

    Raises DeadlineExceeded if none are left.
    """
    expires_at = _expires_at.get()
    if expires_at is None:
        return timeout_s
    remaining = expires_at - monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the deadline passed before the work was done")
    return min(timeout_s, remaining - min(remaining * _ANSWER_SHARE, _ANSWER_S_MAX))
