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
    sizes = [100 * MIB]
    monkeypatch.setattr(receiving, "_ROUND_S", 0.001)
    monkeypatch.setattr(receiving, "_memory_bytes", lambda: sizes[-1])
    waiting = Receiving(100 * MIB)
    first = asyncio.create_task(waiting.read(cast(Any, NeverComes())))
    await asyncio.sleep(0)
    sizes.append(201 * MIB)

    async def second_has_begun() -> bool:
        return waiting._now.memory_bytes == sizes[-1]

    await eventually(second_has_begun, "the growth was seen")
    second = asyncio.create_task(waiting.read(cast(Any, NeverComes())))
    done, _ = await asyncio.wait([first, second], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()

    assert [first] == [*done]
    assert isinstance(first.exception(), TimeoutError)
