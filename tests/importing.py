"""What tests of imports are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from clickstream import (
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    ImportSummary,
    Session,
    SessionEvent,
    TransferDao,
    WriteOutcome,
)
from harness import PATIENCE_S

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2500, 1, 1, tzinfo=UTC)
Database = dict[str, list[dict[str, Any]]]


def session(session_id: str, query: str = "lamp", **fields: Any) -> Session:
    return Session(session_id=session_id, search_query=query, **{"created_at": NOON, **fields})


def event(session_id: str, event_id: str, text: str = "lamp", **fields: Any) -> SessionEvent:
    given = {"object_id": "o", "created_at": NOON, "meta": {"text": text}, **fields}
    return SessionEvent(session_id=session_id, event_id=event_id, **given)


def item(session_id: str, events: int = 2) -> ImportItem:
    return ImportItem(session(session_id), [event(session_id, str(number)) for number in range(events)])


def config(**fields: Any) -> ImportConfig:
    return ImportConfig(**{"import_id": "i", "max_failure_ratio": 1.0, **fields})


def atomic(**fields: Any) -> ImportConfig:
    return config(atomicity=ImportAtomicity.PER_SESSION, **fields)


async def each(*chunks: Sequence[ImportItem]) -> AsyncIterator[ImportChunk]:
    for number, items in enumerate(chunks, start=1):
        yield ImportChunk(number, items)


async def imported(
    transfer: TransferDao, chosen: ImportConfig, *chunks: Sequence[ImportItem]
) -> tuple[list[ImportProgress], ImportSummary]:
    """Import the chunks; the progress of each and the summary."""
    async with asyncio.timeout(2 * PATIENCE_S), aclosing(transfer.import_sessions(chosen, each(*chunks))) as answers:
        *progress, summary = [answer async for answer in answers]
    assert isinstance(summary, ImportSummary)
    assert all(isinstance(one, ImportProgress) for one in progress)
    return progress, summary  # type: ignore[return-value]


def failures_of(progress: list[ImportProgress]) -> list[tuple[int, str, WriteOutcome, str]]:
    """Index, id and outcome of each failure, and the place that its message starts with."""
    return [
        (failure.index, failure.id, failure.outcome, failure.message.split(":")[0])
        for one in progress
        for failure in one.failures
    ]


def numbers_in(stored: Database) -> dict[str, int]:
    return {document["_id"]: document["session_number"] for document in stored["sessions"]}


def bad(number: int) -> ImportItem:
    return ImportItem(session(f"bad {number}", created_at=LATER))
