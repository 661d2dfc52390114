"""When a stream that broke is resumed, and when a connection is left before it would break."""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from clickstream.call_errors import is_cut, is_momentary
from clickstream.errors import ClickstreamError, DeadlineExceeded, InvalidCredentials, Unavailable


def leaves_at(deadline_s: float) -> float:
    """When to leave a connection that is written to, on the monotonic clock: in good time before its deadline.

    What is in flight when a connection breaks is sent again, and then counts as a duplicate. Who leaves first has an
    answer to everything.
    """
    return monotonic() + 0.9 * deadline_s


class Patience:
    """How long a broken stream is resumed: until nothing has come for `timeout_s` seconds since it broke.

    Time in which nothing was due, or nobody took what came, does not count.

    `token_changes`: a stream that ends because its token is no longer valid is resumed with the current one, so that
    tokens can be replaced without a gap.
    """

    TOKENS_TRIED = 3

    def __init__(self, timeout_s: float, *, token_changes: bool = False) -> None:
        self._timeout_s = timeout_s
        self._tokens_left = self._tokens = self.TOKENS_TRIED if token_changes else 0
        self._came = False
        self._until: float | None = None
        self._tries = 0

    def renew(self) -> None:
        """Something came."""
        self._came = True
        self._tokens_left = self._tokens
        self._until = None
        self._tries = 0

    async def pause(self, failure: ClickstreamError, *, awaited: bool) -> None:
        """Wait before the next connection of a stream that is written to. Raises the failure if there is to be none.

        `awaited`: whether anything was to come.
        """
        if not self.allows(failure, awaited=awaited):
            try:
                raise self._given_up(failure)
            finally:
                del failure  # its traceback has this frame, which held it until the garbage collector comes
        await self.wait(failure)

    def allows(self, failure: ClickstreamError, *, awaited: bool = True) -> bool:
        """Whether to connect again. A call that never brought anything has been retried by gRPC already, except where
        the server had too much to do at that moment.
        """
        if isinstance(failure, InvalidCredentials):
            self._tokens_left -= 1
            return self._came and self._tokens_left >= 0
        if self._until is None or not awaited:
            self._until = monotonic() + self._timeout_s
        if monotonic() >= self._until:
            return False
        broken = isinstance(failure, Unavailable | DeadlineExceeded) or is_cut(failure)
        return is_momentary(failure) or (broken and self._came)

    @staticmethod
    def _given_up(failure: ClickstreamError) -> ClickstreamError:
        """What to raise after the last try."""
        if not is_cut(failure):
            return failure
        unavailable = Unavailable(f"the connection broke: {failure.message}")
        unavailable.__cause__ = failure
        return unavailable

    async def wait(self, failure: ClickstreamError) -> None:
        backoff = backoff_s(self._tries)
        self._tries += 1
        await asyncio.sleep(max(failure.retry_after_s or 0.0, random.uniform(backoff / 2, backoff)))


def backoff_s(tries: int) -> float:
    """The longest pause after so many tries. There may be any number: some streams are never given up."""
    return min(2.0, 0.1 * (1 << min(tries, 5)))
