"""Which requests are given up because too many are large or slow to come."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from clickstream_server.interceptors import receiving
from clickstream_server.interceptors.receiving import SLOW_MAX, Receiving
from harness import PATIENCE_S, eventually

MIB = 1024 * 1024


class NeverComes:
    """A call whose request does not come."""

    async def read(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("grows_by", "rounds"), [(40 * MIB, 2), (0, 21), (None, 2)], ids=["grows", "does not grow", "cannot be told"]
)
async def test_a_request_is_large_if_the_process_grows(
    monkeypatch: pytest.MonkeyPatch, grows_by: int | None, rounds: int
) -> None:
    """Past eight, who came last is given up after two rounds in which memory grew, else after one and twenty."""
    sizes = iter([100 * MIB])
    monkeypatch.setattr(receiving, "_ROUND_S", 0.001)
    monkeypatch.setattr(
        receiving, "_memory_bytes", lambda: None if grows_by is None else next(sizes, 100 * MIB + grows_by)
    )
    waiting = Receiving(100 * MIB)
    reads = [asyncio.create_task(waiting.read(cast(Any, NeverComes()))) for _ in range(SLOW_MAX + 1)]
    done, others = await asyncio.wait(reads, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    took = waiting._now.round
    for read in others:
        read.cancel()

    assert [reads[-1]] == [*done]
    assert isinstance(reads[-1].exception(), TimeoutError)
    assert took == rounds


async def test_a_request_that_fills_the_memory_is_given_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few there are: past its bound of growth a request is given up, and one that came after that is not."""
    reads: list[asyncio.Task[Any]] = []
    waiting = Receiving(100 * MIB)

    def memory_bytes() -> int:
        if waiting._now.round == 0:
            return 100 * MIB
        if len(reads) == 1:
            reads.append(asyncio.create_task(waiting.read(cast(Any, NeverComes()))))  # which begins after this look
        return 201 * MIB

    async def looked_again() -> bool:
        return waiting._now.round > given_up_in + 3

    monkeypatch.setattr(receiving, "_ROUND_S", 0.001)
    monkeypatch.setattr(receiving, "_memory_bytes", memory_bytes)
    reads.append(asyncio.create_task(waiting.read(cast(Any, NeverComes()))))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await reads[0]
    given_up_in = waiting._now.round
    await eventually(looked_again, "it was looked at the second one")

    assert not reads[1].done()
    reads[1].cancel()
