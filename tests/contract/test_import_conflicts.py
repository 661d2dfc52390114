"""ImportSessions, on every backend: what stands or falls together, and what is stored already."""

from __future__ import annotations

from typing import Any

import pytest

from clickstream import (
    ClickstreamDao,
    ImportAtomicity,
    ImportItem,
    ImportMode,
    OutcomeCounts,
    TransferDao,
    WriteOutcome,
)
from importing import (
    LATER,
    atomic,
    config,
    event,
    failures_of,
    imported,
    item,
    numbers_in,
    session,
)

# --- a session with its events stands or falls ------------------------------------------------------------------------


async def test_one_bad_event_brings_down_its_item_alone(
    dao: ClickstreamDao, transfer: TransferDao, contents: Any
) -> None:
    """PER_SESSION: of an item with an invalid or conflicting event nothing is stored; its neighbours are, gapless."""
    await dao.push_events([event("c", "known", "old")])
    chunk = [
        item("a"),
        ImportItem(session("b"), [event("b", "1"), event("b", "2", created_at=LATER)]),
        ImportItem(session("c"), [event("c", "1"), event("c", "known", "new")]),
        ImportItem(session("d", created_at=LATER), [event("d", "1")]),
        item("e"),
    ]
    progress, summary = await imported(transfer, atomic(), chunk)
    stored = await contents()

    assert {"a": 1, "e": 2} == numbers_in(stored)
    assert [2] == [batch["session_counter"] for batch in stored["batches"]]
    assert ["a", "a", "c", "e", "e"] == sorted(document["_id"]["session_id"] for document in stored["events"])
    assert OutcomeCounts(inserted=2, rejected=3) == summary.sessions
    assert OutcomeCounts(inserted=4, conflicts=1, rejected=4) == summary.events
    assert [
        (1, "b", WriteOutcome.REJECTED, "session"),
        (1, "2", WriteOutcome.REJECTED, "events[1].created_at"),
        (1, "1", WriteOutcome.REJECTED, "events[0]"),
        (2, "c", WriteOutcome.REJECTED, "session"),
        (2, "1", WriteOutcome.REJECTED, "events[0]"),
        (2, "known", WriteOutcome.CONFLICT, "events[1]"),
        (3, "d", WriteOutcome.REJECTED, "session.created_at"),
        (3, "1", WriteOutcome.REJECTED, "events[0]"),
    ] == failures_of(progress)


async def test_if_everything_falls_nothing_changes(transfer: TransferDao, contents: Any) -> None:
    """PER_SESSION: an import of which every item falls leaves no session, no event, no batch and no number."""
    before = await contents()
    chunk = [ImportItem(session(str(n)), [event(str(n), "1"), event("", "", object_id="")]) for n in range(20)]
    _, summary = await imported(transfer, atomic(), chunk)

    assert OutcomeCounts(rejected=20) == summary.sessions
    assert before == await contents()


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_an_event_twice_in_an_item_is_stored_once(
    transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """The same event twice in an item is one inserted and one duplicate."""
    chunk = [ImportItem(session("a"), [event("a", "1"), event("a", "1")])]
    _, summary = await imported(transfer, config(atomicity=atomicity), chunk)

    assert OutcomeCounts(inserted=1, duplicates=1) == summary.events
    assert 1 == len((await contents())["events"])


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_two_contents_of_an_event_in_an_item_conflict(
    transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """Two contents under one event id in an item are a conflict, which PER_SESSION brings the item down."""
    chunk = [ImportItem(session("a"), [event("a", "1", "lamp"), event("a", "1", "sofa")])]
    _, summary = await imported(transfer, config(atomicity=atomicity), chunk)

    assert 1 == summary.events.conflicts
    stays = ["lamp"] if atomicity is ImportAtomicity.PER_ITEM else []
    assert stays == [document["meta"]["text"] for document in (await contents())["events"]]


# --- replacing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_skipping_keeps_what_is_stored(dao: ClickstreamDao, transfer: TransferDao, atomicity: Any) -> None:
    """SKIP_EXISTING leaves other content of a known session and event as it is, and tells the conflicts."""
    await imported(transfer, config(), [ImportItem(session("a", "old"), [event("a", "1", "old")])])
    chunk = [ImportItem(session("a", "new"), [event("a", "1", "new")])]
    _, summary = await imported(transfer, config(atomicity=atomicity), chunk)
    found = await dao.get_session("a")

    assert found is not None
    assert ("old", "old") == (found.session.search_query, found.events[0].meta["text"])
    assert (OutcomeCounts(conflicts=1), OutcomeCounts(conflicts=1)) == (summary.sessions, summary.events)


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_replacing_replaces_once(
    dao: ClickstreamDao, transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """REPLACE_EXISTING stores the new content, moving the session; the same again changes nothing."""
    await imported(transfer, config(), [ImportItem(session("a", "old"), [event("a", "1", "old")]), item("b")])
    await dao.release_batch("r")
    chosen = config(atomicity=atomicity, mode=ImportMode.REPLACE_EXISTING)
    chunk = [ImportItem(session("a", "new"), [event("a", "1", "new"), event("a", "2")]), item("b"), item("c", 0)]
    _, summary = await imported(transfer, chosen, chunk)
    after = await contents()
    _, again = await imported(transfer, chosen, chunk)
    found = await dao.get_session("a")

    assert (OutcomeCounts(inserted=2, duplicates=1), OutcomeCounts(inserted=2, duplicates=2)) == (
        summary.sessions,
        summary.events,
    )
    assert found is not None
    assert ("new", ["new", "lamp"]) == (found.session.search_query, [one.meta["text"] for one in found.events])
    assert {"a": 1, "b": 2, "c": 2} == numbers_in(after)
    assert (OutcomeCounts(duplicates=3), OutcomeCounts(duplicates=4)) == (again.sessions, again.events)
    assert after == await contents()


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_of_several_replacements_the_last_stays(
    transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """Under REPLACE_EXISTING, contents of one id that follow each other in a chunk are stored one after the other."""
    chosen = config(atomicity=atomicity, mode=ImportMode.REPLACE_EXISTING)
    texts = ["one", "two", "one", "one"]
    _, summary = await imported(
        transfer, chosen, [ImportItem(session("a", text), [event("a", "1", text)]) for text in texts]
    )
    stored = await contents()

    assert ["one"] == [document["search_query"] for document in stored["sessions"]]
    assert ["one"] == [document["meta"]["text"] for document in stored["events"]]
    assert OutcomeCounts(inserted=3, duplicates=1) == summary.sessions == summary.events


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_the_last_chunk_has_the_last_word(
    transfer: TransferDao, contents: Any, atomicity: ImportAtomicity
) -> None:
    """Under REPLACE_EXISTING, contents of one id in several chunks are stored in the order of the stream."""
    chosen = config(atomicity=atomicity, mode=ImportMode.REPLACE_EXISTING)
    # The odd chunks are large, so that they would be overtaken.
    chunks = [
        [ImportItem(session("a", str(n)), [event("a", "1", str(n))]), *(item(f"{n}-{m}") for m in range(n % 2 * 300))]
        for n in range(1, 21)
    ]
    await imported(transfer, chosen, *chunks)
    stored = await contents()

    assert ["20"] == [document["search_query"] for document in stored["sessions"] if document["_id"] == "a"]
    assert ["20"] == [document["meta"]["text"] for document in stored["events"] if document["_id"]["session_id"] == "a"]
