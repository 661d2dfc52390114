"""The client's long streams against services that end them, pause, or go away."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import count, takewhile
from traceback import walk_tb
from typing import Any

import grpc.aio
import pytest

from clickstream import (
    Cancelled,
    ClickstreamClient,
    EventBatch,
    EventStream,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    ImportSummary,
    InvalidField,
    MessageTooLarge,
    PermissionDenied,
    Session,
    SessionEvent,
    SyncClickstreamClient,
    SyncEventStream,
    Unavailable,
)
from clickstream.v1 import outcome_pb2
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceServicer, add_TransferServiceServicer_to_server
from harness import PATIENCE_S, eventually

CONFIG = ImportConfig(import_id="i")


class Service(TransferServiceServicer):
    """Acknowledges what it gets, `answers` requests a connection at most, and then ends the stream with OK."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.connections = 0
        self.left = 0

    async def StreamEvents(  # noqa: N802  # gRPC's name
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        self.connections += 1
        for _ in range(self.answers):
            if (request := await anext(requests, None)) is None:
                self.left += 1
                return
            yield pb.StreamEventsResponse(acked_sequence=request.sequence, inserted=len(request.events))

    async def ImportSessions(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.ImportSessionsResponse]:
        self.connections += 1
        await anext(requests)
        processed = 0
        for _ in range(self.answers):
            if (request := await anext(requests, None)) is None:
                self.left += 1
                yield pb.ImportSessionsResponse(summary=pb.ImportSummary(processed=processed))
                return
            processed += len(request.chunk.items)
            yield pb.ImportSessionsResponse(
                progress=pb.ImportProgress(acked_sequence=request.chunk.sequence, processed=processed)
            )


@asynccontextmanager
async def client_of(service: Service, **options: float) -> AsyncIterator[ClickstreamClient]:
    server = grpc.aio.server()
    add_TransferServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(PATIENCE_S), ClickstreamClient(f"127.0.0.1:{port}", **options) as client:
            yield client
    finally:
        await server.stop(0)


def chunk(number: int) -> ImportChunk:
    return ImportChunk(number, [ImportItem(Session(session_id=str(number)))])


async def chunks(count: int) -> AsyncIterator[ImportChunk]:
    for number in range(1, count + 1):
        yield chunk(number)


def event(number: int) -> SessionEvent:
    return SessionEvent(session_id="s", event_id=str(number), object_id="o")


async def import_five(client: ClickstreamClient) -> int:
    async with aclosing(client.import_sessions(CONFIG, chunks(5))) as answers:
        *progress, summary = [answer async for answer in answers]
    assert isinstance(summary, ImportSummary)
    assert [1, 2, 3, 4, 5] == [one.acked_sequence for one in progress if isinstance(one, ImportProgress)]
    return summary.processed


async def send_five(client: ClickstreamClient) -> int:
    async with client.event_stream(batch_events=1) as stream:
        for number in range(5):
            await stream.send(event(number))
        return (await stream.flush()).inserted


Work = Callable[[ClickstreamClient], Any]
BOTH = pytest.mark.parametrize("work", [import_five, send_five])


@BOTH
async def test_a_stream_that_is_ended_early_is_taken_up_again(work: Work) -> None:
    """A service that ends the stream with OK after each acknowledgement gets everything, each thing once."""
    service = Service(answers=1)
    async with client_of(service) as client:
        assert 5 == await work(client)

    assert service.connections >= 5


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


class Refusing(TransferServiceServicer):
    """Refuses every stream once it has read so many requests, while more of them come."""

    def __init__(self, reads: int) -> None:
        self._reads = reads
        self.connections = 0

    async def StreamEvents(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.connections += 1
        for _ in range(self._reads):
            await anext(requests)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not with this role")
        yield

    ImportSessions = StreamEvents


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


# --- others send meanwhile ------------------------------------------------------------------------------------------


class Behind(Service):
    """Acknowledges a request when `behind` more have come: there is always one that is not acknowledged."""

    behind = 1

    async def StreamEvents(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        waiting: deque[Any] = deque()
        async for request in requests:
            waiting.append(request)
            while len(waiting) > self.behind:
                acked = waiting.popleft()
                yield pb.StreamEventsResponse(acked_sequence=acked.sequence, inserted=len(acked.events))


async def test_a_flush_ends_while_others_send() -> None:
    """`flush` waits for what was sent before it, and not for what another task sends meanwhile without a pause."""
    service = Behind(0)
    async with client_of(service) as client, client.event_stream(batch_events=1, unacked_events=10) as stream:
        flushed = False

        async def send_on() -> None:
            for number in takewhile(lambda _: not flushed, count(5)):
                await stream.send(event(number))

        for number in range(5):
            await stream.send(event(number))
        sending = asyncio.create_task(send_on())
        assert 5 <= (await stream.flush()).inserted
        flushed = True
        await sending
        service.behind = 0
        await stream.send(event(-1))


async def test_a_synchronous_flush_ends_while_others_send() -> None:
    """So it is with threads, of which one flushes and others send without a pause."""
    service = Behind(0)
    async with client_of(service) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client:
            stream = client.event_stream(batch_events=2, unacked_events=10)
            await asyncio.to_thread(stream.__enter__)
            stopped = threading.Event()

            def send_on(first: int) -> None:
                for number in takewhile(lambda _: not stopped.is_set(), count(first)):
                    stream.send(event(number))

            sending = [asyncio.create_task(asyncio.to_thread(send_on, first)) for first in (1_000, 1_000_000)]
            try:
                for number in range(5):
                    await asyncio.to_thread(stream.send, event(number))
                async with asyncio.timeout(PATIENCE_S / 2):
                    assert 5 <= (await asyncio.to_thread(stream.flush)).inserted
            finally:
                stopped.set()
                await asyncio.gather(*sending)
                service.behind = 0
                await asyncio.to_thread(stream.send, event(-1))
                await asyncio.to_thread(stream.__exit__, None, None, None)


async def test_leaving_ends_while_others_send() -> None:
    """Who leaves the context waits for all that was sent before; `send` raises Cancelled from then on."""
    taken = 0

    async def send_on(stream: EventStream) -> None:
        nonlocal taken
        for number in count():
            await stream.send(event(number))
            taken += 1

    async with client_of(Service(10**6)) as client:
        async with client.event_stream(batch_events=1, unacked_events=10) as stream:
            sending = asyncio.create_task(send_on(stream))
            await eventually(lambda: _reached(stream.totals.inserted, 5), "some are stored")
        with pytest.raises(Cancelled):
            await sending

    assert taken == stream.totals.inserted


async def _reached(value: int, least: int) -> bool:
    return value >= least


async def test_leaving_a_synchronous_stream_ends_while_others_send() -> None:
    """So it is with threads: whatever one could send before the other left the context is stored."""
    taken = [0, 0]

    def send_on(stream: SyncEventStream, place: int) -> None:
        for number in count(place * 1_000_000):
            stream.send(event(number))
            taken[place] += 1

    async with client_of(Service(10**6)) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client:
            stream = client.event_stream(batch_events=5, unacked_events=10)
            await asyncio.to_thread(stream.__enter__)
            sending = [asyncio.create_task(asyncio.to_thread(send_on, stream, place)) for place in (0, 1)]
            await eventually(lambda: _reached(stream.totals.inserted, 50), "some are stored")
            await asyncio.to_thread(stream.__exit__, None, None, None)
            ended = await asyncio.gather(*sending, return_exceptions=True)

    assert [Cancelled, Cancelled] == [type(error) for error in ended]
    assert sum(taken) == stream.totals.inserted


# --- the end --------------------------------------------------------------------------------------------------------


class Silent(Service):
    """Reads, and never answers."""

    async def StreamEvents(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802
        self.connections += 1
        async for _ in requests:
            pass

    ImportSessions = StreamEvents


@BOTH
async def test_closing_the_client_ends_its_streams(work: Work) -> None:
    """A stream that waits for an answer when its client is closed ends as Cancelled."""
    service = Silent(0)

    async def connected() -> bool:
        return bool(service.connections)

    async with client_of(service) as client:
        working = asyncio.create_task(work(client))
        await eventually(connected, "the stream is open")
        await client.close()
        await asyncio.wait([working], timeout=PATIENCE_S)

    assert working.done()
    assert Cancelled is type(working.exception())


@BOTH
async def test_a_stream_of_a_closed_client_is_cancelled(work: Work) -> None:
    """A stream that is begun after its client was closed ends as Cancelled."""
    async with client_of(Service(0)) as client:
        await client.close()
        with pytest.raises(Cancelled):
            await work(client)


async def test_nothing_is_taken_after_the_end() -> None:
    """`send` and `flush` after the stream was closed raise Cancelled, instead of taking what is never sent."""
    async with client_of(Service(10)) as client:
        async with client.event_stream() as stream:
            await stream.send(event(1))
        with pytest.raises(Cancelled):
            await stream.send(event(2))
        with pytest.raises(Cancelled):
            await stream.flush()

    assert 1 == stream.totals.inserted


class Failing(Service):
    """Rejects every event."""

    async def StreamEvents(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        async for request in requests:
            failure = outcome_pb2.ItemFailure(outcome=outcome_pb2.WRITE_OUTCOME_REJECTED)
            yield pb.StreamEventsResponse(acked_sequence=request.sequence, rejected=1, failures=[failure])


class Own(BaseException):
    """What a failure handler may raise, and no event loop survives."""


def fail(*_: Any) -> None:
    raise Own


def depth(error: BaseException) -> int:
    return sum(1 for _ in walk_tb(error.__traceback__))


async def test_a_stream_that_ended_keeps_nothing_of_those_who_use_it_on() -> None:
    """What ended a stream is raised by each `send` and `flush` from then on, with the frames of the latest only."""
    sent, flushed = [], []
    async with client_of(Refusing(0)) as client:
        with pytest.raises(PermissionDenied):
            async with client.event_stream() as stream:
                await stream.send(event(1))
                for _ in range(5):
                    with pytest.raises(PermissionDenied) as raised:
                        await stream.flush()
                    flushed.append(depth(raised.value))
                    with pytest.raises(PermissionDenied) as raised:
                        await stream.send(event(2))
                    sent.append(depth(raised.value))

    assert [sent[:1] * 5, flushed[:1] * 5] == [sent, flushed]


@pytest.mark.parametrize(
    ("service", "handler", "error"), [(Refusing(0), None, PermissionDenied), (Failing(0), fail, Own)]
)
async def test_a_synchronous_stream_that_ended_keeps_nothing_of_those_who_use_it_on(
    service: Any, handler: Any, error: type[BaseException]
) -> None:
    """So it is with the synchronous client, whatever has ended the stream."""
    sent, flushed = [], []

    def use(target: str) -> None:
        with (
            SyncClickstreamClient(target) as client,
            pytest.raises(error),
            client.event_stream(on_failure=handler) as stream,
        ):
            stream.send(event(1))
            for _ in range(5):
                with pytest.raises(error) as raised:
                    stream.flush()
                flushed.append(depth(raised.value))
                with pytest.raises(error) as raised:
                    stream.send(event(2))
                sent.append(depth(raised.value))

    async with client_of(service) as client:
        await asyncio.to_thread(use, client.target)

    assert [sent[:1] * 5, flushed[:1] * 5] == [sent, flushed]


async def test_a_stream_that_could_take_nothing_is_refused() -> None:
    """A bound of no events is a ValueError, instead of a `send` that waits for ever."""
    async with client_of(Service(0)) as client:
        with pytest.raises(ValueError, match="unacked_events must be at least 1"):
            client.event_stream(unacked_events=0)


async def test_who_waits_for_room_learns_of_an_end_that_is_interrupted() -> None:
    """So it does if who leaves the stream is cancelled at that moment."""
    leaving = asyncio.Event()

    async def leave(stream: EventStream) -> None:
        async with stream:
            await stream.send(event(1))
            waiting.append(asyncio.create_task(stream.send(event(2))))
            await asyncio.sleep(0)  # it runs up to where it waits
            leaving.set()
            raise LookupError

    waiting: list[asyncio.Task[None]] = []
    async with client_of(Silent(0)) as client:
        task = asyncio.create_task(leave(client.event_stream(batch_events=1, unacked_events=1)))
        await leaving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait(waiting, timeout=PATIENCE_S)

        assert waiting[0].done()
        assert Cancelled is type(waiting[0].exception())


async def test_who_waits_for_room_learns_of_the_end() -> None:
    """A `send` that waits for room when the stream is left with an error ends as Cancelled."""
    async with client_of(Silent(0)) as client:
        with pytest.raises(LookupError):
            async with client.event_stream(batch_events=1, unacked_events=1) as stream:
                await stream.send(event(1))
                waiting = asyncio.create_task(stream.send(event(2)))
                await asyncio.sleep(0)  # it runs up to where it waits
                raise LookupError
        await asyncio.wait([waiting], timeout=PATIENCE_S)

        assert waiting.done()
        assert Cancelled is type(waiting.exception())
