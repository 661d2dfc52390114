"""ImportSessions, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import (
    ClickstreamDao,
    ImportAborted,
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportMode,
    ImportProgress,
    ImportSummary,
    InvalidField,
    OutcomeCounts,
    Session,
    SessionEvent,
    TransferDao,
    WriteOutcome,
)
from clickstream_server.app import opened_dao
from clickstream_server.config import Settings
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


@pytest.fixture
async def contents(mongodb_uri: str, database: str) -> AsyncIterator[Any]:
    """Reads the whole database as it is."""
    async with AsyncMongoClient(mongodb_uri) as client:

        async def read() -> Database:
            stored = client[database]
            return {
                name: [document async for document in stored[name].find().sort("_id")]
                for name in await stored.list_collection_names()
            }

        yield read


def numbers_in(stored: Database) -> dict[str, int]:
    return {document["_id"]: document["session_number"] for document in stored["sessions"]}


# --- what goes in ---------------------------------------------------------------------------------------------------


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


# --- a session with its events stands or falls ----------------------------------------------------------------------


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


# --- replacing ------------------------------------------------------------------------------------------------------


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


# --- dry runs -------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("mode", ImportMode)
@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_a_dry_run_foretells_the_import(
    transfer: TransferDao, contents: Any, mode: ImportMode, atomicity: ImportAtomicity
) -> None:
    """A dry run writes nothing, and tells the outcomes and failures that the import then has."""
    await imported(transfer, config(), [item("same"), item("other"), item("eventful")])
    before = await contents()
    chosen = {"mode": mode, "atomicity": atomicity}
    foretold, dry = await imported(transfer, config(dry_run=True, **chosen), MIXED)
    unchanged = await contents()
    told, real = await imported(transfer, config(**chosen), MIXED)

    assert before == unchanged
    assert failures_of(foretold) == failures_of(told)
    assert (dry.sessions, dry.events) == (real.sessions, real.events)
    assert dry.sessions.inserted
    assert dry.events.rejected
    assert before != await contents()


async def test_a_dry_run_of_an_empty_store_makes_no_batch(transfer: TransferDao, contents: Any) -> None:
    """A dry run makes not even a batch."""
    _, summary = await imported(transfer, config(dry_run=True), [item("a")], [item("b")])

    assert OutcomeCounts(inserted=2) == summary.sessions
    assert {"sessions": [], "events": [], "batches": []} == dict((await contents()).items())


# --- failures and the ratio -----------------------------------------------------------------------------------------


def bad(number: int) -> ImportItem:
    return ImportItem(session(f"bad {number}", created_at=LATER))


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_failures_are_never_cut_off(transfer: TransferDao, atomicity: ImportAtomicity) -> None:
    """A thousand bad items in a chunk are told one by one, by their places in the whole stream."""
    chunks = [[item(f"{number}", 0) for number in range(7)], [bad(number) for number in range(1_000)]]
    progress, summary = await imported(transfer, config(atomicity=atomicity), *chunks)

    assert [(7 + number, f"bad {number}") for number in range(1_000)] == [
        (failure.index, failure.id) for failure in progress[1].failures
    ]
    assert OutcomeCounts(inserted=7, rejected=1_000) == summary.sessions


async def aborted(
    transfer: TransferDao, chosen: ImportConfig, chunks: AsyncIterator[ImportChunk]
) -> tuple[list[ImportProgress], ImportSummary]:
    """Import what is past the ratio; what came before the error."""
    answers: list[Any] = []
    with pytest.raises(ImportAborted):
        async with asyncio.timeout(PATIENCE_S):
            async for answer in transfer.import_sessions(chosen, chunks):
                answers.append(answer)
    return answers[:-1], answers[-1]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_past_the_failure_ratio_it_stops(transfer: TransferDao, contents: Any, dry_run: bool) -> None:
    """Past the ratio no more is taken; the summary says so, the stream ends ABORTED, what was acknowledged stays."""
    chunks = [[bad(100 * chunk + n) if n < 20 else item(f"{chunk}-{n}", 1) for n in range(100)] for chunk in range(50)]
    chosen = config(max_failure_ratio=0.19, dry_run=dry_run)
    progress, summary = await aborted(transfer, chosen, each(*chunks))
    stored = await contents()

    assert isinstance(summary, ImportSummary)
    assert summary.aborted
    assert summary.processed == progress[-1].processed == 100 * len(progress)
    assert summary.processed < 5_000
    assert (80 * len(progress), 20 * len(progress)) == (summary.sessions.inserted, summary.sessions.rejected)
    assert (0 if dry_run else summary.sessions.inserted) == len(stored["sessions"])


@pytest.mark.parametrize(
    ("ratio", "good", "failing", "stops"),
    [
        (0.0, 99, 0, False),
        (0.0, 98, 1, False),
        (0.0, 99, 1, True),
        (0.1, 90, 10, False),
        (0.1, 89, 11, True),
        (0.1, 0, 99, False),
        (1.0, 0, 300, False),
    ],
)
async def test_the_ratio_is_judged_from_a_hundred_items_on(
    transfer: TransferDao,
    ratio: float,
    good: int,
    failing: int,
    stops: bool,
) -> None:
    """An import stops if more than that share failed, and only once a hundred items were seen."""
    items = [item(str(number), 0) for number in range(good)] + [bad(number) for number in range(failing)]
    chosen = config(max_failure_ratio=ratio)
    if stops:
        _, summary = await aborted(transfer, chosen, each(items))
    else:
        _, summary = await imported(transfer, chosen, items)

    assert (stops, good + failing) == (summary.aborted, summary.processed)


async def test_a_producer_that_pauses_learns_of_the_stop(transfer: TransferDao) -> None:
    """Past the ratio the import stops by itself, without waiting for another chunk."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(1, [bad(number) for number in range(100)])
        await asyncio.Event().wait()

    _, summary = await aborted(transfer, config(max_failure_ratio=0.5), chunks())

    assert summary.aborted


# --- rules of the stream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [-0.1, 1.01, 2.0, float("nan"), float("inf")])
async def test_the_ratio_lies_between_none_and_all(transfer: TransferDao, ratio: float) -> None:
    """A ratio below 0, above 1 or not a number is refused by the name of its field."""
    with pytest.raises(InvalidField) as raised:
        await imported(transfer, config(max_failure_ratio=ratio), [item("a")])

    assert ["config.max_failure_ratio"] == [violation.path for violation in raised.value.violations]


@pytest.mark.parametrize("import_id", ["", " ", "x" * 257])
async def test_an_import_has_an_id(transfer: TransferDao, contents: Any, import_id: str) -> None:
    """A blank or too long import id is refused by the name of its field, and nothing is stored."""
    with pytest.raises(InvalidField) as raised:
        await imported(transfer, config(import_id=import_id), [item("a")])

    assert ["config.import_id"] == [violation.path for violation in raised.value.violations]
    assert [] == (await contents())["sessions"]


@pytest.mark.parametrize("sequences", [[0], [-1], [2, 2], [2, 1]])
async def test_sequences_rise(transfer: TransferDao, contents: Any, sequences: list[int]) -> None:
    """A sequence that is not positive or does not rise ends the import; what came before it is acknowledged."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        for place, sequence in enumerate(sequences):
            yield ImportChunk(sequence, [item(str(place), 1)])

    acked = []
    with pytest.raises(InvalidField) as raised:
        async with asyncio.timeout(PATIENCE_S):
            async for answer in transfer.import_sessions(config(), chunks()):
                assert isinstance(answer, ImportProgress)
                acked.append(answer.acked_sequence)

    assert ["chunk.sequence"] == [violation.path for violation in raised.value.violations]
    assert sequences[:-1] == acked
    assert len(acked) == len((await contents())["sessions"])


async def test_a_chunk_has_a_bound(transfer: TransferDao, contents: Any) -> None:
    """A chunk of more than 10,000 items with their events is refused, and what came before it stays."""
    with pytest.raises(InvalidField) as raised:
        await imported(transfer, config(), [item("a")], [item("b", 4_999), item("c", 5_000)])

    assert ["chunk.items"] == [violation.path for violation in raised.value.violations]
    assert {"a": 1} == numbers_in(await contents())


async def test_what_the_producer_raises_comes_out(transfer: TransferDao, contents: Any) -> None:
    """An error in the producer's own iterator is raised from the import as it is, after what came before it."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(1, [item("a")])
        raise LookupError("the log is unreadable")

    with pytest.raises(LookupError, match="the log is unreadable"):
        async with asyncio.timeout(PATIENCE_S):
            async for _ in transfer.import_sessions(config(), chunks()):
                pass

    assert {"a": 1} == numbers_in(await contents())


# --- with others at the same time -----------------------------------------------------------------------------------


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
        await asyncio.sleep(0.05)
    _, summary = await importing

    assert OutcomeCounts(inserted=50_000) == summary.sessions
    assert 50_001 == len((await contents())["sessions"])
