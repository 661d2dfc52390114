"""What the server holds of a stream of events while MongoDB stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clickstream import EventBatch, SessionEvent
from clickstream_server.config import Settings
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.storage.mongo import event_stream
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.event_stream import BYTES_AHEAD_MAX
from harness import PATIENCE_S, freeze, mongod_pid, opened_dao

TEXT = "x" * 60_000
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_what_is_being_written_counts_as_well(tmp_path: Path) -> None:
    """What is read and not answered stays within the bound in bytes, be it waiting or in a write that stands still."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    read = 0

    async def batches() -> AsyncIterator[EventBatch]:
        nonlocal read
        for number in range(1, 2_001):
            read = number
            one = SessionEvent(session_id="s", event_id=str(number), object_id="o", created_at=NOON, meta={"t": TEXT})
            yield EventBatch(number, [one])

    settings = Settings(mongodb_database="held", storage_timeout_s=2 * PATIENCE_S)
    async with asyncio.timeout(3 * PATIENCE_S), opened_dao(uri, settings) as dao:
        await freeze(mongod_pid(tmp_path))
        try:
            async with aclosing(dao.stream_events(batches())) as acks:
                first = asyncio.ensure_future(anext(acks))
                for _ in range(10_000):  # turns of the loop: reading needs nothing else
                    await asyncio.sleep(0)
                held = read
                os.kill(mongod_pid(tmp_path), signal.SIGCONT)
                sequences = [(await first).acked_sequence] + [ack.acked_sequence async for ack in acks]
        finally:
            os.kill(mongod_pid(tmp_path), signal.SIGCONT)
    await mongo.stop()

    assert 1 < held <= BYTES_AHEAD_MAX // len(TEXT) + 2
    assert list(range(1, 2_001)) == sequences


@pytest.mark.parametrize("bound", ["EVENTS_AHEAD_MAX", "BYTES_AHEAD_MAX"])
async def test_a_stream_goes_on_as_its_events_are_answered(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """However few events may wait, what is answered makes room: a stream may have any number of them."""

    async def batches() -> AsyncIterator[EventBatch]:
        for number in range(1, 101):
            yield EventBatch(number, [SessionEvent(session_id="s", event_id=str(number), object_id="o")])

    monkeypatch.setattr(event_stream, bound, 10)
    async with asyncio.timeout(PATIENCE_S), aclosing(dao.stream_events(batches())) as acks:
        assert list(range(1, 101)) == [ack.acked_sequence async for ack in acks]
