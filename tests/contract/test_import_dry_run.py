"""ImportSessions, on every backend: dry runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from clickstream import (
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportMode,
    ImportProgress,
    ImportSummary,
    OutcomeCounts,
    TransferDao,
)
from harness import PATIENCE_S
from importing import (
    LATER,
    config,
    each,
    event,
    failures_of,
    imported,
    item,
    session,
)

MIXED = [
    item("new"),
    item("same"),
    ImportItem(session("other", "sofa"), [event("other", "0"), event("other", "9")]),
    ImportItem(session("eventful"), [event("eventful", "0", "sofa"), event("eventful", "9")]),
    ImportItem(session("late", created_at=LATER), [event("late", "0")]),
    ImportItem(session("mixed"), [event("mixed", "0"), event("foreign", "1"), event("mixed", "0")]),
    ImportItem(None, [event("loose", "0"), event("other", "0", "sofa"), event("", "x")]),
    ImportItem(session("new"), [event("new", "0"), event("new", "8")]),
    ImportItem(session("new", "sofa"), [event("new", "0", "sofa")]),
    ImportItem(session("new", "lamp"), [event("new", "0", "lamp")]),
]


async def one_after_the_other(
    transfer: TransferDao, chosen: ImportConfig, chunks: list[list[ImportItem]]
) -> tuple[list[ImportProgress], ImportSummary]:
    """Import each chunk once the one before is acknowledged, so that it is certain which comes first."""
    acked = asyncio.Semaphore(1)

    async def paced() -> AsyncIterator[ImportChunk]:
        async for chunk in each(*chunks):
            await acked.acquire()
            yield chunk

    found: list[Any] = []
    async with asyncio.timeout(2 * PATIENCE_S), aclosing(transfer.import_sessions(chosen, paced())) as answers:
        async for answer in answers:
            found.append(answer)
            acked.release()
    return found[:-1], found[-1]


@pytest.mark.parametrize("size", [len(MIXED), 3, 1])
@pytest.mark.parametrize("mode", ImportMode)
@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_a_dry_run_foretells_the_import(
    transfer: TransferDao, contents: Any, mode: ImportMode, atomicity: ImportAtomicity, size: int
) -> None:
    """A dry run writes nothing, and tells the outcomes and failures that the import then has, in any chunks."""
    await imported(transfer, config(), [item("same"), item("other"), item("eventful")])
    before = await contents()
    chosen = {"mode": mode, "atomicity": atomicity}
    chunks = [MIXED[at : at + size] for at in range(0, len(MIXED), size)]
    foretold, dry = await imported(transfer, config(dry_run=True, **chosen), *chunks)
    unchanged = await contents()
    told, real = await one_after_the_other(transfer, config(**chosen), chunks)

    assert before == unchanged
    assert failures_of(foretold) == failures_of(told)
    assert (dry.sessions, dry.events) == (real.sessions, real.events)
    assert dry.sessions.inserted
    assert dry.events.rejected
    assert before != await contents()


@pytest.mark.parametrize("mode", ImportMode)
@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_a_dry_run_remembers_what_came_before(
    transfer: TransferDao, mode: ImportMode, atomicity: ImportAtomicity
) -> None:
    """What comes again in later chunks of a dry run is told as a duplicate, and other content as the mode has it."""
    first = [item(f"s{number}") for number in range(200)]
    others = [
        ImportItem(session(f"s{number}", "sofa"), [event(f"s{number}", "0", "sofa")]) for number in range(0, 200, 2)
    ]
    chosen = config(dry_run=True, atomicity=atomicity, mode=mode)
    progress, _ = await imported(transfer, chosen, first, first, others, others, first)
    replaces = mode is ImportMode.REPLACE_EXISTING

    # In all, sessions and events: the others are in conflict twice, or replace once and are replaced again.
    assert [200, 200, 200 + 100 * replaces, 200 + 100 * replaces, 200 + 200 * replaces] == [
        one.sessions.inserted for one in progress
    ]
    assert [400, 400, 400 + 100 * replaces, 400 + 100 * replaces, 400 + 200 * replaces] == [
        one.events.inserted for one in progress
    ]
    assert (0 if replaces else 200) == progress[-1].sessions.conflicts == progress[-1].events.conflicts


async def test_a_dry_run_of_an_empty_store_makes_no_batch(transfer: TransferDao, contents: Any) -> None:
    """A dry run makes not even a batch."""
    _, summary = await imported(transfer, config(dry_run=True), [item("a")], [item("b")])

    assert OutcomeCounts(inserted=2) == summary.sessions
    assert {"sessions": [], "events": [], "batches": []} == dict((await contents()).items())
