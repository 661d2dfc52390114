"""Calls that take turns: what they return is theirs, and when it is crowded they go on one at a time."""

from __future__ import annotations

import asyncio

import pytest

from clickstream_server.interceptors.turns import Turns


async def test_results_and_errors_are_those_of_the_call() -> None:
    """Many calls at once each get their own result or error, and what they await reaches them."""
    turns = Turns(lambda: True)

    async def call(number: int) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        if number % 3 == 0:
            raise ValueError(number)
        return number

    found = await asyncio.gather(*(turns.run(call(number)) for number in range(30)), return_exceptions=True)

    assert [number for number in range(30) if number % 3] == [one for one in found if isinstance(one, int)]
    assert [(number,) for number in range(0, 30, 3)] == [one.args for one in found if isinstance(one, ValueError)]


async def test_a_cancelled_call_ends_and_holds_nobody_up() -> None:
    """A call that is cancelled while it waits, for something or for its turn, cleans up; the others go on."""
    turns = Turns(lambda: True)
    cleaned = []

    async def call(number: int) -> int:
        try:
            for _ in range(20):
                await asyncio.sleep(0)
        finally:
            cleaned.append(number)
        return number

    for moment in range(1, 30):
        cleaned.clear()
        tasks = [asyncio.create_task(turns.run(call(number))) for number in range(12)]
        for _ in range(moment):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)

        assert set(range(12)) == set(cleaned)
        assert list(range(1, 12, 2)) == found[1::2]
        assert all(isinstance(one, asyncio.CancelledError | int) for one in found[::2])


async def test_a_timeout_inside_of_a_call_is_its_own() -> None:
    """A timeout of asyncio inside of a call that takes turns ends what is inside of it."""
    turns = Turns(lambda: True)

    async def call() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await turns.run(call())


async def test_crowded_calls_go_on_one_at_a_time() -> None:
    """Of many calls that could go on in one turn of the event loop, one does at most."""
    turns = Turns(lambda: True)
    go_on = asyncio.Event()
    ended: list[int] = []
    most = turn_of_loop = 0

    async def call() -> None:
        await go_on.wait()
        ended.append(turn_of_loop)

    calls = asyncio.gather(*(turns.run(call()) for _ in range(50)))
    await asyncio.sleep(0)
    go_on.set()
    while not calls.done():
        turn_of_loop += 1
        await asyncio.sleep(0)
    await calls
    crowded = ended[:40]
    most = max(crowded.count(turn) for turn in crowded)

    assert 50 == len(ended)
    assert 1 == most
