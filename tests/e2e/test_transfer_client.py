"""The client's long streams against services that end them, pause, or go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count
from typing import Any

import grpc
import pytest
from misbehaving import (
    BOTH,
    CONFIG,
    Refusing,
    Service,
    Work,
    chunk,
    chunks,
    client_of,
    event,
)

from clickstream import (
    ClickstreamClient,
    EventBatch,
    ImportChunk,
    ImportItem,
    ImportProgress,
    ImportSummary,
    InvalidField,
    MessageTooLarge,
    Overloaded,
    PermissionDenied,
    Session,
    SessionEvent,
    Unavailable,
)
from clickstream.errors import to_status
from clickstream.v1 import transfer_service_pb2 as pb
from harness import eventually


@BOTH
async def test_a_stream_that_is_ended_early_is_taken_up_again(work: Work) -> None:
    """A service that ends the stream with OK after each acknowledgement gets everything, each thing once."""
    service = Service(answers=1)
    async with client_of(service) as client:
        assert 5 == await work(client)

    assert service.connections >= 5


async def test_a_summary_says_over_how_many_connections_it_went() -> None:
    """Who made a dry run learns that the service has forgotten what came over another connection."""
    async with client_of(Service(answers=2)) as client:
        *_, summary = [answer async for answer in client.import_sessions(CONFIG, chunks(5))]

    assert isinstance(summary, ImportSummary)
    assert 3 == summary.connections


async def test_a_connection_that_was_refused_does_not_count() -> None:
    """An import that the service first refused for its load went over one connection: nothing of it was forgotten."""

    class Busy(Service):
        async def ImportSessions(  # noqa: N802
            self, requests: AsyncIterator[Any], context: Any
        ) -> AsyncIterator[pb.ImportSessionsResponse]:
            if not self.connections:
                self.connections += 1
                details = to_status(Overloaded("busy", retry_after_s=0.01)).SerializeToString()
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", [("grpc-status-details-bin", details)])
            async for answer in super().ImportSessions(requests, context):
                yield answer

    service = Busy(answers=10)
    async with client_of(service) as client:
        *_, summary = [answer async for answer in client.import_sessions(CONFIG, chunks(2))]

    assert isinstance(summary, ImportSummary)
    assert (2, 1) == (service.connections, summary.connections)


@BOTH
async def test_a_stream_that_is_always_ended_is_given_up(work: Work) -> None:
    """A service that only ends the stream is tried again with pauses, and given up once patience is over."""
    service = Service(answers=0)
    async with client_of(service, stream_resume_s=1.0) as client:
        with pytest.raises(Unavailable):
            await work(client)

    # The pauses are 0.05 s at least, and double.
    assert 2 <= service.connections <= 10


async def test_a_chunk_of_a_known_number_is_never_taken_for_acknowledged() -> None:
    """Where a sequence does not rise the import ends as invalid, also if the connection is lost before that is told."""

    async def alike() -> AsyncIterator[ImportChunk]:
        yield chunk(1)
        yield chunk(1)

    service = Service(1)
    async with client_of(service) as client, aclosing(client.import_sessions(CONFIG, alike())) as answers:
        with pytest.raises(InvalidField) as raised:
            _ = [answer async for answer in answers]

    assert ["chunk.sequence"] == [violation.path for violation in raised.value.violations]


async def test_a_quiet_stream_outlives_its_deadlines() -> None:
    """A stream that has nothing to send for many deadlines, longer than patience lasts, is still there after them."""
    service = Service(answers=10)

    async def connected_often() -> bool:
        return service.connections >= 5

    async with (
        client_of(service, stream_deadline_s=0.3, stream_resume_s=0.5) as client,
        client.event_stream() as stream,
    ):
        await eventually(connected_often, "five connections")
        await stream.send(event(1))

        assert 1 == (await stream.flush()).inserted


async def test_a_producer_of_chunks_may_pause_over_deadlines() -> None:
    """An import whose producer pauses for many deadlines, longer than patience lasts, goes on after them."""
    service = Service(answers=10)

    async def connected_often() -> bool:
        return service.connections >= 5

    async def paused() -> AsyncIterator[ImportChunk]:
        yield chunk(1)
        await eventually(connected_often, "five connections")
        yield chunk(2)

    async with client_of(service, stream_deadline_s=0.3, stream_resume_s=0.5) as client:
        answers = [answer async for answer in client.import_sessions(CONFIG, paused())]

    assert [1, 2, 2] == [answer.processed for answer in answers]


@pytest.mark.parametrize("kind", ["import", "events"])
async def test_a_connection_is_left_before_its_deadline(kind: str) -> None:
    """A stream that outlives a connection's deadline leaves it in order, with nothing in flight, and goes on."""
    service = Service(answers=10**6)

    async def numbers() -> AsyncIterator[int]:
        """As many as it takes."""
        number = 0
        while service.left < 3:
            number += 1
            yield number

    async with client_of(service, stream_deadline_s=1.0) as client:
        if kind == "import":
            answers = [answer async for answer in client.import_sessions(CONFIG, (chunk(n) async for n in numbers()))]
            done = [answer.acked_sequence for answer in answers if isinstance(answer, ImportProgress)]
            assert [len(done)] == [answer.processed for answer in answers if isinstance(answer, ImportSummary)]
            assert list(range(1, len(done) + 1)) == done
        else:
            sent = 0
            async with client.event_stream(batch_events=1, unacked_events=10) as stream:
                async for number in numbers():
                    await stream.send(event(number))
                    sent += 1
            assert sent == stream.totals.inserted

    assert service.left in (service.connections, service.connections - 1)


class GivenUp:
    """The client's stub, whose first calls are given up by gRPC once they have brought an answer."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return lambda requests, **options: self._call(getattr(self._stub, name)(requests, **options))

    def _call(self, call: Any) -> Any:
        self.calls += 1
        return call if self.calls > 2 else AnsweringOnce(call)


class AnsweringOnce:
    """A call that is cancelled, by nobody that the client knows, once it has brought an answer."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.cancel = call.cancel
        self.add_done_callback = call.add_done_callback

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for answer in self._call:
            yield answer
            self._call.cancel()


@BOTH
async def test_a_call_that_grpc_gives_up_is_made_again(work: Work) -> None:
    """A call that ends as cancelled, though nobody has cancelled it or closed the client, is a broken connection."""
    service = Service(answers=10**6)
    async with client_of(service) as client:
        stub = client.__dict__["_transfer"] = GivenUp(client._transfer)

        assert 5 == await work(client)

    assert 3 == stub.calls


# --- refusals -------------------------------------------------------------------------------------------------------


async def numbers_without_end() -> AsyncIterator[int]:
    for number in count(1):
        yield number
        await asyncio.sleep(0)


async def import_endlessly(client: ClickstreamClient) -> None:
    large = Session(session_id="s", search_query="x" * 100_000)
    chunks = (ImportChunk(number, [ImportItem(large)]) async for number in numbers_without_end())
    async for _ in client.import_sessions(CONFIG, chunks):
        pass


async def send_endlessly(client: ClickstreamClient) -> None:
    async with client.event_stream(batch_events=1) as stream:
        async for number in numbers_without_end():
            await stream.send(event(number))


async def stream_endlessly(client: ClickstreamClient) -> None:
    batches = (EventBatch(number, [event(number)]) async for number in numbers_without_end())
    async for _ in client.stream_events(batches):
        pass


@pytest.mark.parametrize("work", [import_endlessly, send_endlessly, stream_endlessly])
@pytest.mark.parametrize("reads", [0, 1, 2])
async def test_a_refusal_is_told_while_more_is_written(work: Any, reads: int) -> None:
    """What the service refuses a stream for is raised at once, also while the producer goes on writing."""
    service = Refusing(reads)
    async with client_of(service) as client:
        for attempt in range(1, 6):
            with pytest.raises(PermissionDenied, match="not with this role"):
                await work(client)
            assert attempt == service.connections


async def test_a_producer_that_waits_is_let_go_when_the_service_ends_the_stream() -> None:
    """Once the service has ended a stream, the producer's iterator is closed, though it has nothing to give."""
    left = asyncio.Event()

    async def batches() -> AsyncIterator[EventBatch]:
        try:
            yield EventBatch(1, [event(1)])
            await asyncio.Event().wait()
        finally:
            left.set()

    async with client_of(Refusing(1)) as client:
        with pytest.raises(PermissionDenied):
            async for _ in client.stream_events(batches()):
                pass
        await left.wait()


async def test_a_batch_too_large_for_a_message_is_not_sent() -> None:
    """A batch of `stream_events` that is larger than a message may be raises MessageTooLarge here."""
    large = SessionEvent(session_id="s", event_id="e", object_id="o", meta={"text": "x" * 2_000})

    async def batches() -> AsyncIterator[EventBatch]:
        yield EventBatch(1, [large])

    async with client_of(Service(1), message_bytes_max=1_000) as client:
        with pytest.raises(MessageTooLarge, match="1000 bytes at most"):
            async for _ in client.stream_events(batches()):
                pass
