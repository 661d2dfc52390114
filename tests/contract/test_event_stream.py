"""StreamEvents, on every backend; and what `client.event_stream` makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from synced import SyncedDao

from clickstream import (
    ClickstreamClient,
    ClickstreamDao,
    EventAck,
    EventBatch,
    InvalidField,
    ItemFailure,
    MessageTooLarge,
    PushResult,
    Session,
    SessionEvent,
    TransferDao,
    WriteOutcome,
)
from harness import PATIENCE_S, eventually

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(event_id: str, text: str = "lamp", *, session_id: str = "s") -> SessionEvent:
    return SessionEvent(
        event_id=event_id, session_id=session_id, object_id="o", created_at=NOON, meta={"text": text} if text else {}
    )


def future(event_id: str) -> SessionEvent:
    return event(event_id).model_copy(update={"created_at": datetime.now(UTC) + timedelta(days=1)})


async def each(*batches: EventBatch) -> AsyncIterator[EventBatch]:
    for batch in batches:
        yield batch


async def streamed(transfer: TransferDao, *batches: EventBatch) -> list[EventAck]:
    async with asyncio.timeout(PATIENCE_S), aclosing(transfer.stream_events(each(*batches))) as acks:
        return [ack async for ack in acks]


def counts(result: PushResult) -> tuple[int, int, int, int]:
    return result.inserted, result.duplicates, result.conflicts, result.rejected


async def stored_ids(dao: ClickstreamDao) -> list[str]:
    """The ids of the events of session `s`, which is registered for it."""
    await dao.register_session(Session(session_id="s"))
    found = await dao.get_session("s", events_limit=None)
    assert found is not None
    return [one.event_id for one in found.events]


# --- on every backend -----------------------------------------------------------------------------------------------


async def test_every_request_is_answered_in_order(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """Each request is answered once, in order, with its own sequence and its own counts."""
    batches = [
        EventBatch(number * 7 + 1, [event(f"{number:03}-{one}") for one in range(number % 4)]) for number in range(60)
    ]
    acks = await streamed(transfer, *batches)

    assert [batch.sequence for batch in batches] == [ack.acked_sequence for ack in acks]
    assert [(len(batch.events), 0, 0, 0) for batch in batches] == [counts(ack.result) for ack in acks]
    assert [one.event_id for batch in batches for one in batch.events] == sorted(await stored_ids(dao))


async def test_a_request_without_events_is_acknowledged(transfer: TransferDao) -> None:
    """A request without events is answered like any other, also where it is the only one."""
    assert [EventAck(5, PushResult())] == await streamed(transfer, EventBatch(5, []))


async def test_no_requests_no_answers(transfer: TransferDao) -> None:
    """A stream without requests ends well and without answers."""
    assert [] == await streamed(transfer)


async def test_duplicates_are_told_within_and_across_requests(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """The same event again, in its request or in a later one, is a duplicate and stored once."""
    acks = await streamed(
        transfer,
        EventBatch(1, [event("a"), event("a"), event("b")]),
        EventBatch(2, [event("b"), event("c")]),
        EventBatch(3, [event("a"), event("b"), event("c")]),
    )
    inserted = sum(ack.result.inserted for ack in acks)
    duplicates = sum(ack.result.duplicates for ack in acks)

    assert [3, 2, 3] == [sum(counts(ack.result)) for ack in acks]
    assert (3, 5) == (inserted, duplicates)
    assert ["a", "b", "c"] == await stored_ids(dao)


async def test_failures_stand_at_their_place_in_the_request(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """Conflicts and invalid events are told by their index in their own request, and the rest is stored."""
    await dao.push_events([event("known", "old")])
    acks = await streamed(
        transfer,
        EventBatch(1, [event("a"), event("b")]),
        EventBatch(2, [event("c"), event("known", "new"), future("late"), event("d")]),
        EventBatch(3, [future("late")]),
    )
    failures = [[(f.index, f.id, f.outcome, f.reason, f.retryable) for f in ack.result.failures] for ack in acks]

    assert [(2, 0, 0, 0), (2, 0, 1, 1), (0, 0, 0, 1)] == [counts(ack.result) for ack in acks]
    assert [
        [],
        [
            (1, "known", WriteOutcome.CONFLICT, "CONTENT_CONFLICT", False),
            (2, "late", WriteOutcome.REJECTED, "INVALID_FIELD", False),
        ],
        [(0, "late", WriteOutcome.REJECTED, "INVALID_FIELD", False)],
    ] == failures
    assert "created_at" in acks[2].result.failures[0].message
    assert ["a", "b", "c", "d", "known"] == await stored_ids(dao)


async def test_failures_are_never_cut_off(transfer: TransferDao) -> None:
    """A request of two thousand invalid events is answered with two thousand failures."""
    (ack,) = await streamed(transfer, EventBatch(1, [future(str(number)) for number in range(2_000)]))

    assert list(range(2_000)) == [failure.index for failure in ack.result.failures]


async def test_a_stream_may_begin_with_0(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """Who counts from 0 is answered like everybody else."""
    acks = await streamed(transfer, EventBatch(0, [event("a")]), EventBatch(1, [event("b")]))

    assert [(0, 1), (1, 1)] == [(ack.acked_sequence, ack.result.inserted) for ack in acks]
    assert ["a", "b"] == await stored_ids(dao)


async def test_an_acknowledged_event_can_be_read(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """When an acknowledgement comes, while the stream is open, its events are stored."""
    acked = asyncio.Event()

    async def batches() -> AsyncIterator[EventBatch]:
        yield EventBatch(1, [event("a")])
        await acked.wait()
        yield EventBatch(2, [event("b")])

    async with asyncio.timeout(PATIENCE_S), aclosing(transfer.stream_events(batches())) as acks:
        assert 1 == (await anext(acks)).acked_sequence
        assert ["a"] == await stored_ids(dao)
        acked.set()
        assert [2] == [ack.acked_sequence async for ack in acks]


@pytest.mark.parametrize("sequences", [[-1], [0, 0], [0, -1], [3, 3], [3, 2], [2**63 - 1, 1]])
async def test_sequences_rise(dao: ClickstreamDao, transfer: TransferDao, sequences: list[int]) -> None:
    """A sequence that is negative or does not rise ends the stream; what came before it is acknowledged."""
    acks = []
    batches = [EventBatch(sequence, [event(str(place))]) for place, sequence in enumerate(sequences)]
    with pytest.raises(InvalidField) as raised:
        async with asyncio.timeout(PATIENCE_S):
            async for ack in transfer.stream_events(each(*batches)):
                acks.append(ack.acked_sequence)

    assert ["sequence"] == [violation.path for violation in raised.value.violations]
    assert sequences[:-1] == acks
    assert [str(place) for place in range(len(sequences) - 1)] == await stored_ids(dao)


async def test_a_request_has_a_bound(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """A request past 10,000 events ends the stream, and nothing of it is stored."""
    with pytest.raises(InvalidField) as raised:
        await streamed(transfer, EventBatch(1, [event("a")]), EventBatch(2, [event("b")] * 10_001))

    assert ["events"] == [violation.path for violation in raised.value.violations]
    assert ["a"] == await stored_ids(dao)


async def test_what_the_producer_raises_comes_out(transfer: TransferDao) -> None:
    """An error in the producer's own iterator is raised from the stream as it is."""

    async def batches() -> AsyncIterator[EventBatch]:
        yield EventBatch(1, [event("a")])
        raise LookupError("the log is unreadable")

    with pytest.raises(LookupError, match="the log is unreadable"):
        async with asyncio.timeout(PATIENCE_S):
            async for _ in transfer.stream_events(batches()):
                pass


async def test_a_stream_that_is_left_stops_reading(transfer: TransferDao) -> None:
    """Leaving the stream early closes the producer's iterator."""
    if isinstance(transfer, SyncedDao):
        pytest.skip("an iterator that blocks cannot be interrupted")
    closed = asyncio.Event()

    async def batches() -> AsyncIterator[EventBatch]:
        try:
            yield EventBatch(1, [event("a")])
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with asyncio.timeout(PATIENCE_S):
        async with aclosing(transfer.stream_events(batches())) as acks:
            await anext(acks)
        await closed.wait()


async def test_streams_at_the_same_time_store_each_event_once(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """Several streams that carry the same events store each once: one of them inserts it, the others count it."""
    batches = [EventBatch(number, [event(f"{number:02}-{one}") for one in range(50)]) for number in range(1, 11)]
    streams = await asyncio.gather(*(streamed(transfer, *batches) for _ in range(4)))
    results = [ack.result for acks in streams for ack in acks]

    assert (500, 1_500) == (sum(one.inserted for one in results), sum(one.duplicates for one in results))
    assert 500 == len(await stored_ids(dao))


# --- the client's event_stream --------------------------------------------------------------------------------------


class Requests:
    """The client's stub, with a note of every request that goes out over it."""

    def __init__(self, client: ClickstreamClient) -> None:
        self._method = client._transfer.StreamEvents
        self.sent: list[Any] = []
        client._transfer.StreamEvents = self._noting

    def _noting(self, requests: AsyncIterator[Any], **options: Any) -> Any:
        async def noted() -> AsyncIterator[Any]:
            async for request in requests:
                self.sent.append(request)
                yield request

        return self._method(noted(), **options)

    @property
    def sizes(self) -> list[int]:
        return [len(request.events) for request in self.sent]


async def send_all(stream: Any, events: Iterable[SessionEvent]) -> None:
    for one in events:
        await stream.send(one)


async def test_leaving_the_context_flushes(client: ClickstreamClient) -> None:
    """When the context has been left, everything that was sent is durable and counted."""
    async with asyncio.timeout(PATIENCE_S), client.event_stream() as stream:
        await send_all(stream, (event(str(number)) for number in range(3_210)))

    assert PushResult(inserted=3_210) == stream.totals
    assert 3_210 == len(await stored_ids(client))


async def test_events_are_gathered_by_count(client: ClickstreamClient) -> None:
    """A request goes out as soon as it has `batch_events`, and the rest at the flush."""
    requests = Requests(client)
    async with asyncio.timeout(PATIENCE_S), client.event_stream(batch_events=10, batch_s=3600) as stream:
        await send_all(stream, (event(str(number)) for number in range(25)))
        await eventually(lambda: _settled(stream.totals.inserted == 20), "two requests are acknowledged")
        assert [10, 10] == requests.sizes

    assert [10, 10, 5] == requests.sizes


async def _settled(value: bool) -> bool:
    return value


async def test_events_are_gathered_by_bytes(client: ClickstreamClient) -> None:
    """A request goes out as soon as its events have `batch_bytes`."""
    requests = Requests(client)
    async with asyncio.timeout(PATIENCE_S), client.event_stream(batch_bytes=50_000, batch_s=3600) as stream:
        await send_all(stream, (event(str(number), "x" * 20_000) for number in range(7)))

    assert [3, 3, 1] == requests.sizes


async def test_events_go_out_in_time(client: ClickstreamClient) -> None:
    """A single event goes out and becomes durable without a flush."""
    async with asyncio.timeout(PATIENCE_S), client.event_stream(batch_s=0.01) as stream:
        await stream.send(event("a"))
        await eventually(lambda: _settled(stream.totals.inserted == 1), "the event is acknowledged")


async def test_failed_events_are_handed_over(client: ClickstreamClient) -> None:
    """The failure handler gets each event that was not stored, once, with the reason."""
    await client.push_events([event("known", "old")])
    failed: list[tuple[str, WriteOutcome]] = []

    def note(one: SessionEvent, failure: ItemFailure) -> None:
        assert one.event_id == failure.id
        failed.append((one.event_id, failure.outcome))

    async with asyncio.timeout(PATIENCE_S), client.event_stream(on_failure=note, batch_events=3) as stream:
        await send_all(stream, [event("a"), event("known", "new"), event("b"), future("c"), event("d"), future("e")])

    assert [
        ("known", WriteOutcome.CONFLICT),
        ("c", WriteOutcome.REJECTED),
        ("e", WriteOutcome.REJECTED),
    ] == failed
    assert (3, 0, 1, 2) == counts(stream.totals)
    assert [] == stream.failures


async def test_without_a_handler_failures_are_kept(client: ClickstreamClient) -> None:
    """Without a handler the failed events stand in `failures`."""
    async with asyncio.timeout(PATIENCE_S), client.event_stream() as stream:
        await send_all(stream, [event("a"), future("b")])

    assert [("b", WriteOutcome.REJECTED)] == [(one.event_id, failure.outcome) for one, failure in stream.failures]


async def test_a_handler_that_raises_does_not_hang_the_stream(client: ClickstreamClient) -> None:
    """An error of the failure handler comes out of the stream."""

    def fail(one: SessionEvent, failure: ItemFailure) -> None:
        raise LookupError(one.event_id)

    limit = asyncio.timeout(PATIENCE_S / 3)
    with pytest.raises(LookupError, match="b"):
        async with limit, client.event_stream(on_failure=fail) as stream:
            await send_all(stream, [event("a"), future("b")])

    assert not limit.expired()


async def test_an_error_inside_the_context_comes_out_at_once(client: ClickstreamClient) -> None:
    """An error inside the context is raised as it is, without waiting for what was not acknowledged."""
    with pytest.raises(LookupError, match="mine"):
        async with asyncio.timeout(PATIENCE_S), client.event_stream(batch_s=3600) as stream:
            await stream.send(event("a"))
            raise LookupError("mine")


async def test_an_event_too_large_for_a_message_is_refused_alone(client: ClickstreamClient) -> None:
    """An event larger than a message is refused by `send`; the stream goes on with the others."""
    async with asyncio.timeout(PATIENCE_S), client.event_stream() as stream:
        await stream.send(event("a"))
        with pytest.raises(MessageTooLarge):
            await stream.send(event("b", "x" * 9 * 1024 * 1024))
        await stream.send(event("c"))

    assert PushResult(inserted=2) == stream.totals


async def test_totals_add_up_over_flushes(client: ClickstreamClient) -> None:
    """Each flush returns the totals so far."""
    async with asyncio.timeout(PATIENCE_S), client.event_stream() as stream:
        await send_all(stream, [event("a"), event("b")])
        assert PushResult(inserted=2) == await stream.flush()
        await send_all(stream, [event("b"), event("c")])
        assert PushResult(inserted=3, duplicates=1) == await stream.flush()
        assert PushResult(inserted=3, duplicates=1) == await stream.flush()


async def test_many_tasks_share_a_stream(client: ClickstreamClient) -> None:
    """Tasks that send into one stream at the same time lose nothing."""
    async with asyncio.timeout(PATIENCE_S), client.event_stream(batch_events=7, unacked_events=20) as stream:
        await asyncio.gather(*(send_all(stream, [event(f"{task}-{one}") for one in range(50)]) for task in range(8)))

    assert PushResult(inserted=400) == stream.totals
    assert 400 == len(await stored_ids(client))
