"""Reading a page ahead: nothing runs on once its reader is gone, and others have their turn while it is encoded."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from clickstream_server.storage.mongo.paging import in_turns, reading_ahead


async def test_what_is_read_ahead_ends_with_its_reader() -> None:
    """A read that still runs when its reader goes away is cancelled, and its end awaited."""
    told: list[str] = []

    async def read() -> None:
        try:
            told.append("began")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            told.append("ended")

    async with reading_ahead() as start:
        start(read())
        await asyncio.sleep(0)

    assert ["began", "ended"] == told


async def test_an_error_that_nobody_waits_for_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    """What was read ahead for a reader that has gone may fail, and no one is told."""

    async def read() -> None:
        raise LookupError

    async with reading_ahead() as start:
        start(read())
        await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [] == caplog.records


async def test_a_page_that_was_taken_is_not_kept() -> None:
    """A page that was read ahead is gone once its reader is done with it, however long that stays."""

    class Page:
        """Something that can be watched."""

    async def read() -> Page:
        return Page()

    async with reading_ahead() as start:
        taken = weakref.ref(await start(read()))
        await asyncio.sleep(0)
        gc.collect()

        assert taken() is None


async def test_a_page_leaves_turns_to_others() -> None:
    """While a large page is encoded, what else waits on the event loop goes on."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(other())
    encoded = [text async for text in in_turns(range(500), str)]
    waiting.cancel()

    assert list(map(str, range(500))) == encoded
    assert turns > 10
