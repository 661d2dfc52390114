"""A follower that stops reading while its batch grows, and catches up later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from clickstream import ClickstreamClient, ImportChunk, ImportConfig, ImportItem, ImportSummary, Session
from harness import ServerProcess, rss_bytes

CHUNK = 250
CHUNKS_BEFORE, CHUNKS = 8, 40
QUERY = "q" * 8192
"""So that the sessions of one import are 80 MB, which a server that kept them would show."""
GROWTH_BYTES_MAX = 40 * 1024 * 1024


async def imported(client: ClickstreamClient, name: str, chunks: int) -> int:
    async def made() -> AsyncIterator[ImportChunk]:
        for sequence in range(1, chunks + 1):
            ids = (f"{name}-{sequence}-{number}" for number in range(CHUNK))
            sessions = [Session(session_id=session_id, search_query=QUERY) for session_id in ids]
            yield ImportChunk(sequence, [ImportItem(session) for session in sessions])

    answers = [answer async for answer in client.import_sessions(ImportConfig(import_id=name), made())]
    assert isinstance(answers[-1], ImportSummary)
    return answers[-1].sessions.inserted


async def test_a_follower_that_fell_behind_catches_up(mongodb_uri: str, database: str) -> None:
    """The server keeps nothing for a follower that does not read, which later gets every number, in order."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    try:
        async with ClickstreamClient(server.address) as reader, ClickstreamClient(server.address) as writer:
            total = await imported(writer, "before", CHUNKS_BEFORE)
            async with aclosing(reader.get_batch_pages("", follow=True)) as pages:
                seen = [found.session_number for found in (await anext(pages)).sessions]
                before = rss_bytes(server.pid)
                total += await imported(writer, "behind", CHUNKS)
                grown = rss_bytes(server.pid) - before
                await writer.release_batch("r")

                async for page in pages:
                    seen += [found.session_number for found in page.sessions]
    finally:
        await server.kill()

    assert (CHUNKS_BEFORE + CHUNKS) * CHUNK == total
    assert list(range(1, total + 1)) == seen
    assert page.sealed
    assert grown < GROWTH_BYTES_MAX
