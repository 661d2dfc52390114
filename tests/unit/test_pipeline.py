"""Work on a stream, several pieces at once: order, bounds, errors, and an end that leaves nothing running."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing
from weakref import WeakSet

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream_server.storage.mongo.pipeline import in_order

PATIENCE_S = 10.0


class Workshop:
    """A source of numbers and the work on them, both under the test's control; it keeps count of everything."""

    def __init__(self, pieces: int, *, held: bool = False, source_fails_at: int | None = None) -> None:
        self._pieces = pieces
        self._source_fails_at = source_fails_at
        self.gates = [asyncio.Event() for _ in range(pieces)]
        if not held:
            for gate in self.gates:
                gate.set()
        self.read = 0
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.most_at_once = 0
        self.source_closed = False

    async def source(self) -> AsyncIterator[int]:
        try:
            for piece in range(self._pieces):
                if piece == self._source_fails_at:
                    raise LookupError(piece)
                self.read += 1
                yield piece
        finally:
            self.source_closed = True

    async def work(self, piece: int) -> int:
        self.begun.append(piece)
        self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended) - len(self.cancelled))
        try:
            await self.gates[piece].wait()
        except asyncio.CancelledError:
            self.cancelled.append(piece)
            raise
        self.ended.append(piece)
        return piece * 10


async def settled() -> None:
    """Let everything that can run on do so: each turn of the loop runs what was ready before it."""
    for _ in range(50):
        await asyncio.sleep(0)


@given(order=st.permutations(range(8)), in_flight=st.integers(1, 10))
def test_results_come_in_the_order_of_the_source(order: list[int], in_flight: int) -> None:
    """Whatever piece is done first, results come in the order of the source, each once."""

    async def run() -> list[int]:
        shop = Workshop(8, held=True)

        async def finish_one_after_the_other() -> None:
            for piece in order:
                shop.gates[piece].set()
                await settled()

        finishing = asyncio.create_task(finish_one_after_the_other())
        results = [result async for result in in_order(shop.source(), shop.work, in_flight=in_flight)]
        await finishing
        return results

    assert [piece * 10 for piece in range(8)] == asyncio.run(run())


@pytest.mark.parametrize("in_flight", [1, 2, 3, 8])
async def test_what_runs_at_once_is_bounded(in_flight: int) -> None:
    """While nothing gets done, as many pieces run as are allowed, and no more are read."""
    shop = Workshop(50, held=True)
    async with aclosing(in_order(shop.source(), shop.work, in_flight=in_flight)) as results:
        first = asyncio.create_task(anext(results))
        await settled()

        assert in_flight == shop.most_at_once
        assert shop.read == len(shop.begun)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("in_flight", [1, 3, 8])
async def test_a_reader_that_waits_holds_up_the_source(in_flight: int) -> None:
    """Results that nobody takes are not piled up: with the one taken last, as many are read as are allowed."""
    shop = Workshop(1_000)
    async with aclosing(in_order(shop.source(), shop.work, in_flight=in_flight)) as results:
        assert 0 == await anext(results)
        await settled()
        ahead = shop.read

        assert in_flight == ahead
        assert 10 == await anext(results)
        await settled()
        assert ahead + 1 == shop.read


async def test_an_error_of_the_source_comes_after_what_came_before_it() -> None:
    """What the source gave before it failed is worked on and told; then its error is raised."""
    shop = Workshop(9, held=True, source_fails_at=2)
    results: list[int] = []
    with pytest.raises(LookupError, match="2"):
        async with aclosing(in_order(shop.source(), shop.work, in_flight=3)) as found:
            asyncio.get_running_loop().call_soon(shop.gates[1].set)
            asyncio.get_running_loop().call_later(0, shop.gates[0].set)
            async for result in found:
                results.append(result)

    assert [0, 10] == results


@pytest.mark.parametrize("fails_at", [0, 1, 5])
async def test_an_error_of_the_work_ends_everything(fails_at: int) -> None:
    """The first error of the work is raised at its place, after the results before it; the rest is cancelled."""
    shop = Workshop(50, held=True)
    for gate in shop.gates[:fails_at]:
        gate.set()

    async def work(piece: int) -> int:
        if piece == fails_at:
            raise LookupError(piece)
        return await shop.work(piece)

    results: list[int] = []
    with pytest.raises(LookupError, match=str(fails_at)):
        async with asyncio.timeout(PATIENCE_S), aclosing(in_order(shop.source(), work, in_flight=3)) as found:
            async for result in found:
                results.append(result)

    assert [piece * 10 for piece in range(fails_at)] == results
    assert sorted(shop.begun) == sorted([*shop.ended, *shop.cancelled])


async def test_an_empty_source_gives_nothing() -> None:
    """Nothing in, nothing out, and the end comes."""
    shop = Workshop(0)
    async with asyncio.timeout(PATIENCE_S):
        assert [] == [result async for result in in_order(shop.source(), shop.work, in_flight=3)]


@pytest.mark.parametrize("taken", [0, 1, 4])
async def test_nothing_runs_on_after_it_is_closed(taken: int) -> None:
    """Once it is closed, every piece that had begun has ended or was cancelled, and nothing more is begun or read."""
    before = asyncio.all_tasks()
    shop = Workshop(50, held=True)
    for gate in shop.gates[:taken]:
        gate.set()
    results = in_order(shop.source(), shop.work, in_flight=3)
    for _ in range(taken):
        await anext(results)
    if not taken:  # it has begun, and nothing is done yet
        first = asyncio.create_task(anext(results))
        await settled()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await results.aclose()

    assert sorted(shop.begun) == sorted([*shop.ended, *shop.cancelled])
    assert before == asyncio.all_tasks()
    read = shop.read
    for gate in shop.gates:
        gate.set()
    await settled()
    assert read == shop.read
    assert sorted(shop.begun) == sorted([*shop.ended, *shop.cancelled])


async def test_the_source_is_closed_with_it() -> None:
    """A source that is held up when the pipeline is closed is closed before `aclose` returns."""
    shop = Workshop(50)
    source = shop.source()
    results = in_order(source, shop.work, in_flight=3)
    await anext(results)
    await settled()
    await results.aclose()

    assert shop.source_closed


async def test_the_source_is_closed_also_if_the_end_is_cancelled() -> None:
    """Who goes away while the end of work that failed is awaited leaves no source to the garbage collector."""
    closed, leaving, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[int]:
        try:
            for piece in range(10):
                yield piece
        finally:
            closed.set()

    async def work(piece: int) -> None:
        if piece:
            try:
                await asyncio.Event().wait()
            finally:
                leaving.set()
                await gate.wait()
        await asyncio.sleep(0.01)
        raise LookupError(piece)

    async def read() -> None:
        async with aclosing(in_order(source(), work, in_flight=2)) as results:
            async for _ in results:
                pass

    reading = asyncio.create_task(read())
    await leaving.wait()
    reading.cancel()
    await asyncio.wait([reading])

    assert closed.is_set()


@pytest.mark.parametrize("tells", [True, False])
async def test_a_source_that_will_not_be_cancelled_holds_nobody_up(tells: bool) -> None:
    """A source that makes another error of its cancellation, or none and goes on, is no longer read once it is over."""
    read = 0

    async def source() -> AsyncIterator[int]:
        nonlocal read
        yield 0
        yield 1
        while True:
            read += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if tells:
                    raise LookupError from None
            for piece in range(9):
                yield piece

    shop = Workshop(9)
    results = in_order(source(), shop.work, in_flight=3)
    async with asyncio.timeout(PATIENCE_S):
        await anext(results)
        await settled()
        await results.aclose()

    assert read == 1


async def test_what_was_taken_is_not_kept() -> None:
    """However long the stream, only the pieces and results near its reader are held."""

    class Page:
        """Something that can be seen to be gone."""

    held: WeakSet[Page] = WeakSet()

    def page() -> Page:
        held.add(made := Page())
        return made

    async def source() -> AsyncIterator[Page]:
        for _ in range(100):
            yield page()

    async def work(_: Page) -> Page:
        return page()

    most = 0
    async for _ in in_order(source(), work, in_flight=2):
        await settled()
        most = max(most, len(held))

    assert most <= 10


async def test_what_was_not_taken_is_gone_once_it_is_closed() -> None:
    """A reader that goes away early leaves nothing to the garbage collector, which comes seldom in a server."""

    class Page:
        """Something that can be seen to be gone."""

    held: WeakSet[Page] = WeakSet()

    async def source() -> AsyncIterator[asyncio.Future[None]]:
        for _ in range(5):
            yield (begun := asyncio.get_running_loop().create_future())
            await begun

    async def work(begun: asyncio.Future[None]) -> Page:
        begun.set_result(None)
        held.add(made := Page())
        return made

    gc.disable()
    try:
        async with aclosing(in_order(source(), work, in_flight=3)) as pages:
            first = await anext(pages)
            await settled()
            assert len(held) > 1
        del first, pages
        await settled()
        assert not held
    finally:
        gc.enable()


async def test_a_source_that_ends_as_cancelled_ends_it() -> None:
    """Cancelled by nobody here, a source that raises CancelledError leaves its reader with that error, and no wait."""

    async def source() -> AsyncIterator[int]:
        yield 0
        raise asyncio.CancelledError

    shop = Workshop(1)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(PATIENCE_S):
            async for _ in in_order(source(), shop.work, in_flight=3):
                pass
