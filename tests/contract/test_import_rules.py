"""ImportSessions, on every backend: failures, the ratio at which it stops, and the rules of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clickstream import (
    ImportAborted,
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    ImportSummary,
    InvalidField,
    OutcomeCounts,
    TransferDao,
)
from harness import PATIENCE_S
from importing import (
    LATER,
    bad,
    config,
    each,
    event,
    imported,
    item,
    numbers_in,
    session,
)

# --- failures and the ratio -------------------------------------------------------------------------------------------


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
    with pytest.raises(ImportAborted) as raised:
        async with asyncio.timeout(PATIENCE_S):
            async for answer in transfer.import_sessions(chosen, chunks):
                answers.append(answer)
    failed = {failure.index for progress in answers[:-1] for failure in progress.failures}
    assert f"{len(failed)} of {answers[-1].processed} items failed" in raised.value.message
    assert f"the allowed {chosen.max_failure_ratio * 100:g}%" in raised.value.message
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
        (0.29, 71, 29, False),
        (0.29, 70, 30, True),
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


async def test_an_item_fails_once(transfer: TransferDao) -> None:
    """However many of its events are refused, an item counts as one that failed."""
    failing = [
        ImportItem(session(f"bad {n}"), [event(f"bad {n}", str(place), created_at=LATER) for place in range(3)])
        for n in range(10)
    ]
    items = [*failing, *(item(str(number), 0) for number in range(90))]
    _, summary = await imported(transfer, config(max_failure_ratio=0.1), items)

    assert (False, 100, 30) == (summary.aborted, summary.processed, summary.events.rejected)


async def test_a_producer_that_pauses_learns_of_the_stop(transfer: TransferDao) -> None:
    """Past the ratio the import stops by itself, without waiting for another chunk."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(1, [bad(number) for number in range(100)])
        await asyncio.Event().wait()

    _, summary = await aborted(transfer, config(max_failure_ratio=0.5), chunks())

    assert summary.aborted


# --- rules of the stream ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("sequences", [[-1], [0, 0], [2, 2], [2, 1]])
async def test_sequences_rise(transfer: TransferDao, contents: Any, sequences: list[int]) -> None:
    """A sequence that is negative or does not rise ends the import; what came before it is acknowledged."""

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
    """A chunk of more than 10,000 items, or events in them, is refused, and what came before it stays."""
    for many in ([item("b", 5_000), item("c", 5_001)], [item(str(number)) for number in range(10_001)]):
        with pytest.raises(InvalidField) as raised:
            await imported(transfer, config(), [item("a")], many)

        assert ["chunk.items"] == [violation.path for violation in raised.value.violations]
        assert {"a": 1} == numbers_in(await contents())


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_a_full_chunk_is_taken(transfer: TransferDao, contents: Any, atomicity: ImportAtomicity) -> None:
    """A chunk may have 10,000 events, as a call may, beside its sessions; the first chunk may have the number 0."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(0, [item("a", 9_000), item("b", 1_000), item("c", 0)])

    async with asyncio.timeout(PATIENCE_S):
        answers = [one async for one in transfer.import_sessions(config(atomicity=atomicity), chunks())]
    progress, summary = answers

    assert isinstance(progress, ImportProgress)
    assert (0, 3) == (progress.acked_sequence, progress.processed)
    assert isinstance(summary, ImportSummary)
    assert (3, 10_000) == (summary.sessions.inserted, summary.events.inserted)
    assert {"a": 1, "b": 2, "c": 3} == numbers_in(await contents())


async def test_what_the_producer_raises_comes_out(transfer: TransferDao, contents: Any) -> None:
    """An error in the producer's own iterator is raised from the import as it is, after what came before it."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(1, [item("a")])
        raise LookupError("the log is unreadable")

    answers = []
    with pytest.raises(LookupError, match="the log is unreadable"):
        async with asyncio.timeout(PATIENCE_S):
            async for answer in transfer.import_sessions(config(), chunks()):
                answers.append(type(answer))

    assert [ImportProgress] == answers  # a summary would say that this was all
    assert {"a": 1} == numbers_in(await contents())
