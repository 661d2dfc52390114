"""How calls are made through our client, and how what they wrote is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, TypeVar

from benchmarks.stored import Document
from clickstream import ClickstreamClient, ImportChunk, ImportConfig, ImportItem, ImportSummary, Overloaded

IN_FLIGHT = 64
CHUNK_SESSIONS = 500
_LOOKED_UP = 1_000
_COMPARED = 100
_REFUSED_S = 0.1

T = TypeVar("T")


async def in_flight(
    call: Callable[[T], Awaitable[object]], wanted: Iterable[T], *, callers: int = IN_FLIGHT
) -> list[float]:
    """So many callers, each of whom calls again once it is answered. Return how many seconds each call took.

    Our client makes a call again that is refused for the server's load, but not without end; here it is made until it
    succeeds, and all of that is its time.
    """
    waiting = iter(wanted)
    took = []

    async def work() -> None:
        for one in waiting:
            began = perf_counter()
            while not await _accepted(call, one):
                pass
            took.append(perf_counter() - began)

    await asyncio.gather(*(work() for _ in range(callers)))
    return took


async def _accepted(call: Callable[[T], Awaitable[object]], one: T) -> bool:
    try:
        await call(one)
    except Overloaded as refused:
        await asyncio.sleep(refused.retry_after_s or _REFUSED_S)
        return False
    return True


async def import_all(
    client: ClickstreamClient,
    wanted: Iterator[ImportItem] | Sequence[ImportItem],
    *,
    chunk_sessions: int = CHUNK_SESSIONS,
) -> ImportSummary:
    """Import these; return the summary."""
    rest = iter(wanted)

    async def chunks() -> AsyncIterator[ImportChunk]:
        sequence = 0
        while chunk := list(islice(rest, chunk_sessions)):
            sequence += 1
            yield ImportChunk(sequence, chunk)

    answer = None
    async for answer in client.import_sessions(ImportConfig(import_id="benchmark"), chunks()):  # noqa: B007
        pass
    assert isinstance(answer, ImportSummary)
    return answer


def check_stored(
    collection: Any, documents: Sequence[Document], *, but: Sequence[str] = (), alone: bool = False
) -> None:
    """Fail unless all of these are there, and a sample of them as it should be. `alone`: nothing else is there."""
    ids = [document["_id"] for document in documents]
    queries = [{"_id": {"$in": ids[at : at + _LOOKED_UP]}} for at in range(0, len(ids), _LOOKED_UP)]
    found = sum(map(collection.count_documents, [{}] if alone else queries))
    assert len(ids) == found, f"{found} instead of {len(ids)} are in {collection.full_name}"
    for document in documents[:: max(1, len(documents) // _COMPARED)]:
        stored = collection.find_one({"_id": document["_id"]})
        assert _without(document, but) == _without(stored, but)


def check_numbers(database: Any) -> None:
    """Fail unless the numbers of the batch that collects have no gap."""
    batch = database.batches.find_one({"status": "COLLECTING"})
    numbers = database.sessions.find({"batch_id": batch["_id"]}, {"_id": 0, "session_number": 1})
    assert sorted(found["session_number"] for found in numbers) == list(range(1, batch["session_counter"] + 1))


def _without(document: Document, fields: Sequence[str]) -> Document:
    return {key: value for key, value in document.items() if key not in fields}
