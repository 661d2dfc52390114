"""The client's streams keep to the size of a message, whatever it is set to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clickstream import (
    ClickstreamClient,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    MessageTooLarge,
    PushResult,
    Session,
    SessionEvent,
    SyncClickstreamClient,
)
from clickstream.values import MESSAGE_BYTES_MAX
from harness import PATIENCE_S, served

SMALL = 512 * 1024


@asynccontextmanager
async def small_messages(mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamClient]:
    """A server whose messages may be small only, and a client that knows."""
    async with (
        asyncio.timeout(PATIENCE_S),
        served(mongodb_uri, database, message_bytes_max=SMALL) as usual,
        ClickstreamClient(usual.target, message_bytes_max=SMALL) as client,
    ):
        yield client


def event(number: int, text: str = "") -> SessionEvent:
    return SessionEvent(session_id="s", event_id=str(number), object_id="o", meta={"text": text})


async def test_an_event_stream_keeps_to_the_size_of_a_message(mongodb_uri: str, database: str) -> None:
    """Events that fit into a message each are stored, however small a message may be, and however many are sent."""
    async with small_messages(mongodb_uri, database) as client, client.event_stream() as stream:
        for number in range(2_500):
            await stream.send(event(number, "x" * 600))

    assert PushResult(inserted=2_500) == stream.totals


async def test_a_synchronous_event_stream_keeps_to_the_size_of_a_message(mongodb_uri: str, database: str) -> None:
    """So it is with the synchronous client."""

    def send(target: str) -> PushResult:
        with (
            SyncClickstreamClient(target, message_bytes_max=SMALL) as client,
            client.event_stream(batch_s=3600) as stream,
        ):
            for number in range(2_500):
                stream.send(event(number, "x" * 600))
        return stream.totals

    async with small_messages(mongodb_uri, database) as client:
        assert PushResult(inserted=2_500) == await asyncio.to_thread(send, client.target)


@pytest.mark.parametrize("less", [64 + 6, 200, 10_000])
async def test_a_large_event_of_a_stream_goes_alone(mongodb_uri: str, database: str, less: int) -> None:
    """An event that hardly fits into a message is sent without those before it, and ends nothing."""
    async with (
        asyncio.timeout(PATIENCE_S),
        served(mongodb_uri, database) as client,
        client.event_stream(batch_s=3600) as stream,
    ):
        around = stream.message_of(event(1)).ByteSize() + 3 * 4  # four lengths around the text take more bytes
        for number in (0, 2):
            await stream.send(event(number, "x" * 20_000))
            await stream.send(event(1, "x" * (MESSAGE_BYTES_MAX - less - around)))
            await stream.send(event(number + 10))

    assert (4, 2) == (stream.totals.inserted, stream.totals.rejected)
    assert ["1", "1"] == [one.event_id for one, _ in stream.failures]


@pytest.mark.parametrize("sessions", [3, 12])
async def test_a_chunk_too_large_for_a_message_is_told(mongodb_uri: str, database: str, sessions: int) -> None:
    """An import whose chunk is larger than a message may be stores those before it, and raises MessageTooLarge."""
    done: list[int] = []

    async def chunks() -> AsyncIterator[ImportChunk]:
        for number, count in ((1, 1), (2, sessions)):
            found = [Session(session_id=f"{number}-{one}", search_query="x" * 200_000) for one in range(count)]
            yield ImportChunk(number, [ImportItem(session) for session in found])

    async with small_messages(mongodb_uri, database) as client:
        with pytest.raises(MessageTooLarge, match=f"a message must have {SMALL} bytes at most"):
            async for answer in client.import_sessions(ImportConfig(import_id="i"), chunks()):
                if isinstance(answer, ImportProgress):
                    done.append(answer.acked_sequence)

        assert [1] == done
        assert await client.get_session("1-0") is not None
