"""ImportSessions, on every backend: what goes in, and with others at the same time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clickstream import (
    ClickstreamDao,
    ImportAtomicity,
    ImportItem,
    InvalidField,
    OutcomeCounts,
    Session,
    TransferDao,
    WriteOutcome,
)
from clickstream_server.config import Settings
from harness import opened_dao
from importing import (
    LATER,
    config,
    event,
    failures_of,
    imported,
    item,
    numbers_in,
    session,
)

# --- what goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_sessions_are_numbered_in_the_order_of_the_stream(
    dao: ClickstreamDao, transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """Sessions get consecutive numbers in the order in which they come, over chunks that are written in parallel."""
    chunks = [[item(f"s{chunk}-{place}") for place in range(300)] for chunk in (3, 1, 2, 5, 4)]
    progress, summary = await imported(transfer, config(atomicity=atomicity), *chunks)
    order = [one.session.session_id for chunk in chunks for one in chunk if isinstance(one.session, Session)]
    stored = await contents()

    assert {name: number for number, name in enumerate(order, start=1)} == numbers_in(stored)
    assert 3_000 == len(stored["events"])
    assert [300, 600, 900, 1200, 1500] == [one.processed for one in progress]
    assert (1_500, OutcomeCounts(inserted=1_500), OutcomeCounts(inserted=3_000), False) == (
        summary.processed,
        summary.sessions,
        summary.events,
        summary.aborted,
    )


async def test_progress_is_of_the_stream_so_far(transfer: TransferDao) -> None:
    """Counts grow from chunk to chunk, acknowledgements come in order, and the summary repeats the last counts."""
    chunks = [[item(f"{chunk}-{place}", events=chunk) for place in range(4)] for chunk in range(5)]
    progress, summary = await imported(transfer, config(), *chunks)

    assert [1, 2, 3, 4, 5] == [one.acked_sequence for one in progress]
    assert [4, 8, 12, 16, 20] == [one.sessions.inserted for one in progress]
    assert [0, 4, 12, 24, 40] == [one.events.inserted for one in progress]
    assert (progress[-1].sessions, progress[-1].events) == (summary.sessions, summary.events)
    assert summary.elapsed_s > 0


async def test_an_import_of_nothing_has_a_summary(transfer: TransferDao) -> None:
    """Without chunks comes an empty summary; an empty chunk is acknowledged."""
    progress, summary = await imported(transfer, config())
    assert ([], 0) == (progress, summary.processed)

    progress, summary = await imported(transfer, config(), [])
    assert ([1], 0) == ([one.acked_sequence for one in progress], summary.processed)


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_a_repeated_import_is_all_duplicates(
    transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """The same import again inserts nothing, changes nothing and fails nothing."""
    chunks = [[item(f"{chunk}-{place}") for place in range(50)] for chunk in range(3)]
    await imported(transfer, config(atomicity=atomicity), *chunks)
    before = await contents()
    progress, summary = await imported(transfer, config(atomicity=atomicity), *chunks)

    assert (OutcomeCounts(duplicates=150), OutcomeCounts(duplicates=300)) == (summary.sessions, summary.events)
    assert [] == failures_of(progress)
    assert before == await contents()


async def test_events_take_the_session_of_their_item(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """An event without a session id belongs to the item's session; one of another session is rejected."""
    events = [event("", "a"), event("s", "b"), event("other", "c")]
    progress, _ = await imported(transfer, config(), [ImportItem(session("s"), events)])
    found = await dao.get_session("s")

    assert found is not None
    assert [("a", "s"), ("b", "s")] == [(one.event_id, one.session_id) for one in found.events]
    assert [(0, "c", WriteOutcome.REJECTED, "events[2].session_id")] == failures_of(progress)


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_an_item_may_be_events_alone(
    dao: ClickstreamDao, transfer: TransferDao, atomicity: ImportAtomicity
) -> None:
    """An item without a session stores its events; one of them without a session id is rejected."""
    chunk = [ImportItem(None, [event("x", "1"), event("y", "2")]), ImportItem(None, [event("", "3")])]
    progress, summary = await imported(transfer, config(atomicity=atomicity), chunk)
    await dao.register_session(session("x"))
    found = await dao.get_session("x")

    assert found is not None
    assert 1 == found.event_count
    assert (OutcomeCounts(), OutcomeCounts(inserted=2, rejected=1)) == (summary.sessions, summary.events)
    assert [(1, "3", WriteOutcome.REJECTED, "events[0].session_id")] == failures_of(progress)


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_a_session_twice_is_stored_once(transfer: TransferDao, contents: Any, atomicity: ImportAtomicity) -> None:
    """A session that comes twice, in a chunk or in a later one, is a duplicate, or a conflict if it differs."""
    chunks = [
        [item("a", 1), item("a", 1), ImportItem(session("a", "sofa")), item("b", 0)],
        [item("a", 1), ImportItem(session("b", "sofa")), item("c", 0)],
    ]
    progress, summary = await imported(transfer, config(atomicity=atomicity), *chunks)

    assert OutcomeCounts(inserted=3, duplicates=2, conflicts=2) == summary.sessions
    assert [
        (2, "a", WriteOutcome.CONFLICT, "session"),
        (5, "b", WriteOutcome.CONFLICT, "session"),
    ] == failures_of(progress)
    assert {"a": 1, "b": 2, "c": 3} == numbers_in(await contents())


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_what_is_imported_may_be_of_any_age(mongodb_uri: str, database: str, atomicity: ImportAtomicity) -> None:
    """Where events and sessions must not be old, an import still takes them, of any age, and none of the future."""
    settings = Settings(mongodb_database=database, age_s_max=60)
    old = datetime(1, 1, 1, tzinfo=UTC)
    chunk = [
        ImportItem(session("old", created_at=old), [event("old", "e", created_at=old)]),
        ImportItem(session("new", created_at=LATER)),
        ImportItem(session("s", created_at=old), [event("s", "e", created_at=datetime.now(UTC) + timedelta(days=1))]),
    ]
    async with opened_dao(mongodb_uri, settings) as dao:
        with pytest.raises(InvalidField):
            await dao.register_session(session("old", created_at=old))
        progress, _ = await imported(dao, config(atomicity=atomicity), chunk)
        found = await dao.get_session("old")

    assert found is not None
    assert (old, 1) == (found.session.created_at, found.event_count)
    expected = [(1, "new", WriteOutcome.REJECTED, "session.created_at")]
    if atomicity is ImportAtomicity.PER_SESSION:
        expected.append((2, "s", WriteOutcome.REJECTED, "session"))
    assert [*expected, (2, "e", WriteOutcome.REJECTED, "events[0].created_at")] == failures_of(progress)


# --- with others at the same time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_numbers_stay_whole_among_others(
    dao: ClickstreamDao, transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """Imports, registrations and releases at the same time leave every batch numbered from 1 to its counter."""
    shared = [item(f"shared {number}", 1) for number in range(60)]
    imports = [
        imported(
            transfer,
            config(atomicity=atomicity),
            *[[item(f"{name}-{chunk}-{n}", 1) for n in range(40)] + shared for chunk in range(4)],
        )
        for name in ("a", "b")
    ]

    async def register() -> None:
        for number in range(60):
            await dao.register_session(session(f"registered {number}"))
            if number % 20 == 10:
                await dao.release_batch(f"r{number}")

    await asyncio.gather(register(), *imports)
    stored = await contents()
    given: dict[str, list[int]] = {batch["_id"]: [] for batch in stored["batches"]}
    for document in stored["sessions"]:
        given[document["batch_id"]].append(document["session_number"])

    assert 60 + 60 + 2 * 160 == len(stored["sessions"]) == len(stored["events"]) + 60
    assert {batch["_id"]: list(range(1, batch["session_counter"] + 1)) for batch in stored["batches"]} == {
        batch_id: sorted(numbers) for batch_id, numbers in given.items()
    }
    assert len(given) >= 3


async def test_the_largest_chunks_go_in(dao: ClickstreamDao, transfer: TransferDao, contents: Any) -> None:
    """Chunks of 10,000 sessions go in one after the other, and a registration among them is not turned away."""
    chunks = [[ImportItem(session(f"{chunk}-{number}")) for number in range(10_000)] for chunk in range(5)]
    importing = asyncio.create_task(imported(transfer, config(), *chunks))
    while not importing.done():
        await dao.register_session(session("among them"))
        await asyncio.wait([importing], timeout=0.05)
    _, summary = await importing

    assert OutcomeCounts(inserted=50_000) == summary.sessions
    assert 50_001 == len((await contents())["sessions"])
