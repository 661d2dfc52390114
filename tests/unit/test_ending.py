"""What is ended on the way out: in order, or at once where nobody wants to wait."""

from __future__ import annotations

import asyncio

import pytest

from clickstream_server.process import ending


class Ended:
    """Notes how it was ended; in order takes for ever unless `quick`."""

    def __init__(self, *, quick: bool = False) -> None:
        self.how: list[str] = []
        self._quick = quick

    async def in_order(self) -> None:
        self.how.append("in order")
        if not self._quick:
            await asyncio.Event().wait()

    async def at_once(self) -> None:
        self.how.append("at once")


async def test_it_is_ended_in_order() -> None:
    """Whoever leaves is ended in order, once."""
    ended = Ended(quick=True)
    async with ending(ended.in_order, ended.at_once):
        assert [] == ended.how
    assert ["in order"] == ended.how


async def test_it_is_ended_in_order_after_an_error() -> None:
    """An error is no reason for haste, and is raised."""
    ended = Ended(quick=True)
    with pytest.raises(ValueError, match="no"):
        async with ending(ended.in_order, ended.at_once):
            raise ValueError("no")
    assert ["in order"] == ended.how


@pytest.mark.parametrize("when", ["inside", "at the end"])
async def test_one_cancel_is_for_all_that_is_left(when: str) -> None:
    """Cancelled once, inside or while the innermost is ended in order, a task waits for nothing on its way out."""
    outer, inner = Ended(), Ended()
    entered = asyncio.Event()

    async def work() -> None:
        async with ending(outer.in_order, outer.at_once), ending(inner.in_order, inner.at_once):
            entered.set()
            if when == "inside":
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (["at once"] if when == "inside" else ["in order", "at once"]) == inner.how
    assert ["at once"] == outer.how
