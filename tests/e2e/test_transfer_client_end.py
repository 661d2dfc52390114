"""The end of a long stream: while others send, with its client, and for those who use it on."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from itertools import count, takewhile
from traceback import walk_tb
from typing import Any

import pytest
from misbehaving import (
    BOTH,
    Refusing,
    Service,
    Silent,
    Work,
    client_of,
    event,
)

from clickstream import (
    Cancelled,
    EventStream,
    PermissionDenied,
    SyncClickstreamClient,
    SyncEventStream,
)
from clickstream.v1 import outcome_pb2
from clickstream.v1 import transfer_service_pb2 as pb
from harness import PATIENCE_S, eventually

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
    """`flush` of the synchronous client does not wait for what other threads send meanwhile without a pause."""
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
    """Of several threads, whatever one could send before another left the context is stored, and no more is taken."""
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
    """What ended a synchronous stream, whatever it was, is raised with the frames of the latest only."""
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


async def test_who_waits_for_room_learns_of_an_end_that_is_interrupted() -> None:
    """A `send` that waits for room ends as Cancelled also if who leaves the stream is cancelled at that moment."""
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
