"""Others have their turn while a page is encoded."""

from __future__ import annotations

from clickstream_server.storage.mongo.paging import in_turns
from harness import turns_of_others


async def test_a_page_leaves_turns_to_others() -> None:
    """While a large page is encoded, what else waits on the event loop goes on."""
    with turns_of_others() as turns:
        encoded = [text async for text in in_turns(range(500), str)]

    assert list(map(str, range(500))) == encoded
    assert turns() > 10
