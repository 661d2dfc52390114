"""Others have their turn while a page is encoded."""

from __future__ import annotations

import asyncio

from clickstream_server.storage.mongo.paging import in_turns


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
