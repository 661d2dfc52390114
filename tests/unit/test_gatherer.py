"""A group that fails is tried again by halves: what is wrong with one call is that call's alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clickstream.errors import ClickstreamError, StorageUnavailable
from clickstream_server.call_record import CallRecord, begin_call, this_call
from clickstream_server.interceptors.call import Call
from clickstream_server.interceptors.errors import answer_with
from clickstream_server.storage.mongo.gatherer import Gatherer, PendingCall

PATIENCE_S = 10.0
POISON = 13


class Told(Exception):
    """That a call has ended."""


class Context:
    """As much of gRPC's as the end of a call needs."""

    def time_remaining(self) -> None:
        return None

    async def abort(self, *_: Any) -> None:
        raise Told


class Group(Gatherer[PendingCall[int], int]):
    """Fails where the poison is; each piece of work waits for something."""

    gathered = "push"
    group_bytes_max = 1_000
    overloaded = "too many"

    async def work(self, group: list[PendingCall[int]]) -> list[int]:
        for _ in range(3):
            await asyncio.sleep(0)
        if any(call.content_bytes == POISON for call in group):
            raise LookupError
        return [call.content_bytes for call in group]


async def called(group: Group, size: int) -> int | str:
    """As the interceptor makes a call: what went wrong is told, and forgotten, before the next one ends."""
    try:
        return await group.submit(PendingCall(content_bytes=size))
    except Exception as error:  # whatever it is
        call = Call("/a/b", Context(), CallRecord(()), streams=False)  # type: ignore[arg-type]
        with pytest.raises(Told):
            await answer_with(call, error)
        return "failed"


@pytest.mark.parametrize("place", range(6))
async def test_one_bad_call_fails_alone(place: int) -> None:
    """Wherever the bad call stands in its group, the others get their results, and so do calls after them."""
    group = Group(timeout_s=PATIENCE_S)
    sizes = [POISON if number == place else number for number in range(6)]
    first = asyncio.create_task(called(group, 99))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        found = await asyncio.gather(*(called(group, size) for size in sizes))
        assert 99 == await first
        assert 7 == await called(group, 7)

    assert ["failed" if size == POISON else size for size in sizes] == found


async def test_a_group_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait go into groups that take no further call once they have so many bytes."""
    groups: list[list[int]] = []

    async def work(_: Group, group: list[PendingCall[int]]) -> list[int]:
        groups.append([call.content_bytes for call in group])
        return groups[-1]

    monkeypatch.setattr(Group, "work", work)
    group = Group(timeout_s=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        await group.submit_all([PendingCall(content_bytes=400) for _ in range(7)])

    assert [[400] * 3, [400] * 3, [400]] == groups


async def test_who_leaves_a_group_that_fails_is_not_tried_again() -> None:
    """What nobody waits for any more is no part of the halves that are tried."""
    worked: list[list[int]] = []
    begun = asyncio.Event()

    class Seen(Group):
        async def work(self, group: list[PendingCall[int]]) -> list[int]:
            begun.set()
            worked.append([call.content_bytes for call in group])
            return await super().work(group)

    group = Seen(timeout_s=PATIENCE_S)
    calls = [asyncio.create_task(called(group, size)) for size in (1, 2, POISON, 3)]
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
        calls[1].cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    assert [[1, 2, POISON, 3], [1], [POISON, 3], [POISON], [3]] == worked


async def test_a_domain_error_is_told_to_all() -> None:
    """An error of the domain, such as the database being away, is no reason to try the halves."""
    tries = 0

    class Away(Group):
        async def work(self, group: list[PendingCall[int]]) -> list[int]:
            nonlocal tries
            tries += 1
            raise ClickstreamError("away")

    group = Away(timeout_s=PATIENCE_S)
    found = await asyncio.gather(*(called(group, size) for size in range(4)))

    assert ["failed"] * 4 == found
    assert 1 == tries


async def test_a_call_whose_time_is_over_says_so() -> None:
    """The line of a call that the database kept waiting too long has that as its cause."""

    class Stuck(Group):
        async def work(self, group: list[PendingCall[int]]) -> list[int]:
            await asyncio.Event().wait()
            return []

    begin_call(())
    group = Stuck(timeout_s=0.01)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StorageUnavailable):
            await group.submit(PendingCall(content_bytes=1))
        await group.close(0)

    assert "TimeoutError" == this_call().cause
