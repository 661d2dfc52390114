"""Bulk transfer while servers die and come back, and while the database stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest
from pymongo import AsyncMongoClient

from clickstream import (
    ClickstreamClient,
    ExportFilter,
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    ImportSummary,
    Session,
    SessionEvent,
    ShuttingDown,
)
from clickstream.call_errors import failure_of
from clickstream.v1 import event_pb2
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceStub
from clickstream_server.embedded import EmbeddedMongo
from harness import PATIENCE_S, ServerProcess, eventually, freeze, mongod_pid, served, stands_still

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Server:
    """A server process that can be killed and comes back on its port."""

    def __init__(self, mongodb_uri: str, database: str) -> None:
        self._settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
        self.process: ServerProcess
        self.address = ""

    async def start(self) -> None:
        listen = {"listen": self.address} if self.address else {}
        self.process = await ServerProcess.start(**self._settings, **listen)
        self.address = self.process.address

    async def kill_and_restart(self) -> None:
        await self.process.kill()
        await self.start()


@pytest.fixture
async def server(mongodb_uri: str, database: str) -> AsyncIterator[Server]:
    server = Server(mongodb_uri, database)
    await server.start()
    yield server
    await server.process.kill()


async def stored(mongodb_uri: str, database: str, name: str) -> list[dict[str, Any]]:
    async with AsyncMongoClient(mongodb_uri) as client:
        return [document async for document in client[database][name].find()]


def event(number: int) -> SessionEvent:
    return SessionEvent(event_id=f"{number:06}", session_id=f"s{number % 50}", object_id="o", created_at=NOON)


async def holds(value: bool) -> bool:
    return value


# --- event_stream ---------------------------------------------------------------------------------------------------


async def test_a_stream_of_events_survives_killed_servers(server: Server, mongodb_uri: str, database: str) -> None:
    """Over two `kill -9` in mid-stream every event is stored once, and the totals add up to what was sent."""
    sent = 0
    async with ClickstreamClient(server.address) as client, asyncio.timeout(2 * PATIENCE_S):  # noqa: SIM117
        async with client.event_stream(batch_events=100, unacked_events=1_000) as stream:

            async def produce(until: asyncio.Event) -> None:
                nonlocal sent
                while not until.is_set():
                    await stream.send(event(sent))
                    sent += 1

            done = asyncio.Event()
            producing = asyncio.create_task(produce(done))
            for _ in range(2):
                acked = stream.totals.inserted + stream.totals.duplicates
                await eventually(
                    lambda acked=acked: holds(stream.totals.inserted + stream.totals.duplicates >= acked + 2_000),
                    "events are acknowledged",
                )
                await server.kill_and_restart()
            done.set()
            await producing
            totals = await stream.flush()
    found = Counter(document["_id"]["event_id"] for document in await stored(mongodb_uri, database, "events"))

    assert sent > 4_000
    assert {event(number).event_id: 1 for number in range(sent)} == found
    assert (sent, 0, 0) == (totals.inserted + totals.duplicates, totals.conflicts, totals.rejected)


async def test_a_quiet_stream_survives_a_killed_server(server: Server, mongodb_uri: str, database: str) -> None:
    """A stream that has nothing to send while the server dies sends what comes afterwards, each once and at once."""
    async with ClickstreamClient(server.address) as client, client.event_stream() as stream:
        for number in range(3):
            await stream.send(event(number))
            async with asyncio.timeout(PATIENCE_S / 2):
                await stream.flush()
            await server.kill_and_restart()
        await stream.send(event(3))
        async with asyncio.timeout(PATIENCE_S / 2):
            totals = await stream.flush()

    assert (4, 0) == (totals.inserted, totals.duplicates)
    assert 4 == len(await stored(mongodb_uri, database, "events"))


async def test_a_stream_may_be_quiet_for_long(server: Server) -> None:
    """A stream that was quiet for longer than `stream_resume_s` takes up a lost connection like any other."""
    async with ClickstreamClient(server.address, stream_resume_s=5.0) as client, client.event_stream() as stream:
        await stream.send(event(0))
        await stream.flush()
        quiet_until = monotonic() + 5.5
        await eventually(lambda: holds(monotonic() > quiet_until), "the stream was quiet")
        await server.kill_and_restart()
        await stream.send(event(1))
        async with asyncio.timeout(PATIENCE_S / 2):
            totals = await stream.flush()

    assert 2 == totals.inserted


async def test_a_server_that_stops_ends_streams_with_a_reason(server: Server, mongodb_uri: str, database: str) -> None:
    """SIGTERM in mid-stream: the stream ends UNAVAILABLE, what it acknowledged is stored, and the server exits well."""
    acked = 0
    async with grpc.aio.insecure_channel(server.address) as channel:
        # One request after the other's answer: grpc.aio loses the status of a stream that ends while it is written to.
        answered = asyncio.Semaphore(1)

        async def requests() -> AsyncIterator[pb.StreamEventsRequest]:
            number = 0
            while True:
                await answered.acquire()
                number += 1
                events = [event_pb2.SessionEvent(event_id=str(number), session_id="s", object_id="o")]
                yield pb.StreamEventsRequest(sequence=number, events=events)

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for answer in TransferServiceStub(channel).StreamEvents(requests(), timeout=PATIENCE_S):
                acked = answer.acked_sequence
                if acked == 100:
                    server.process.signal(signal.SIGTERM)
                else:
                    answered.release()
    code = await server.process.exited()
    found = {document["_id"]["event_id"] for document in await stored(mongodb_uri, database, "events")}

    assert ShuttingDown is type(failure_of(raised.value))
    assert {str(number) for number in range(1, acked + 1)} <= found
    assert 0 == code


# --- a database that stands still -----------------------------------------------------------------------------------


class Frozen:
    """A mongod of the test's own that can stand still."""

    def __init__(self, uri: str, data_dir: Path) -> None:
        self.uri = uri
        self._pid = mongod_pid(data_dir)

    async def begin(self) -> None:
        await freeze(self._pid)

    def end(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest.fixture
async def frozen(tmp_path: Path) -> AsyncIterator[Frozen]:
    mongo = EmbeddedMongo(tmp_path)
    found = Frozen(await mongo.start(), tmp_path)
    yield found
    found.end()
    await mongo.stop()


async def test_a_producer_waits_for_a_database_that_stands_still(frozen: Frozen) -> None:
    """While MongoDB stands still `send` waits at `unacked_events`; when it goes on, nothing is lost."""
    sent = 0
    async with served(frozen.uri, "still") as client, asyncio.timeout(2 * PATIENCE_S):  # noqa: SIM117
        async with client.event_stream(batch_events=50, unacked_events=500) as stream:

            async def produce() -> None:
                nonlocal sent
                for number in range(3_000):
                    await stream.send(event(number))
                    sent += 1

            await stream.send(event(0))
            await stream.flush()
            await frozen.begin()
            producing = asyncio.create_task(produce())
            held_at = await stands_still(lambda: sent)
            acked = stream.totals
            frozen.end()
            await producing
            totals = await stream.flush()

    assert (500, 1) == (held_at, acked.inserted)
    assert 3_001 == totals.inserted + totals.duplicates
    assert 3_001 - totals.duplicates == 3_000 == totals.inserted
    assert [] == stream.failures


async def test_the_server_stops_reading_while_the_database_stands_still(frozen: Frozen) -> None:
    """A raw producer's writes stop at a bound while MongoDB stands still, and go on with it; all is acknowledged."""
    most, written = 2_000, 0
    meta = {"text": "x" * 60_000}
    async with (
        served(frozen.uri, "still", storage_timeout_s=60) as client,
        grpc.aio.insecure_channel(client.target) as channel,
        asyncio.timeout(3 * PATIENCE_S),
    ):
        call = TransferServiceStub(channel).StreamEvents(timeout=3 * PATIENCE_S)

        async def produce() -> None:
            nonlocal written
            for number in range(1, most + 1):
                one = event_pb2.SessionEvent(event_id=str(number), session_id="s", object_id="o", meta=meta)
                await call.write(pb.StreamEventsRequest(sequence=number, events=[one]))
                written = number
            await call.done_writing()

        await frozen.begin()
        producing = asyncio.create_task(produce())
        held_at = await stands_still(lambda: written)
        frozen.end()
        acks = [(answer.acked_sequence, answer.inserted) async for answer in call]
        await producing

    assert 0 < held_at < most / 2
    assert [(number, 1) for number in range(1, most + 1)] == acks


# --- imports --------------------------------------------------------------------------------------------------------

ITEMS = [
    ImportItem(
        Session(session_id=f"s{number:05}", created_at=NOON),
        [
            SessionEvent(event_id=name, session_id=f"s{number:05}", object_id="o", created_at=NOON)
            for name in ("a", "b")
        ],
    )
    for number in range(4_000)
]


async def chunks() -> AsyncIterator[ImportChunk]:
    for at in range(0, len(ITEMS), 50):
        yield ImportChunk(at + 1, ITEMS[at : at + 50])


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_an_import_survives_a_killed_server(
    server: Server, mongodb_uri: str, database: str, atomicity: ImportAtomicity
) -> None:
    """Over a `kill -9` in its middle, an import ends with every row stored once and accounted for."""
    config = ImportConfig(import_id="i", atomicity=atomicity, max_failure_ratio=0.0)
    progress: list[int] = []
    restarting: asyncio.Task[None] | None = None
    async with ClickstreamClient(server.address) as client, asyncio.timeout(2 * PATIENCE_S):  # noqa: SIM117
        async with aclosing(client.import_sessions(config, chunks())) as answers:
            async for answer in answers:
                if isinstance(answer, ImportProgress):
                    progress.append(answer.processed)
                if answer.processed >= 500 and restarting is None:
                    restarting = asyncio.create_task(server.kill_and_restart())
                    await eventually(lambda: holds(server.process.pid not in _running()), "the server is dead")
    assert restarting is not None
    await restarting

    assert isinstance(answer, ImportSummary)
    assert list(range(50, 4_001, 50)) == progress
    assert (4_000, 4_000) == (answer.processed, answer.sessions.inserted + answer.sessions.duplicates)
    assert 8_000 == answer.events.inserted + answer.events.duplicates
    await assert_whole(mongodb_uri, database)


def _running() -> set[int]:
    return {server.pid for server in ServerProcess.alive}


@pytest.mark.parametrize("atomicity", ImportAtomicity)
async def test_an_import_can_be_made_again_after_a_killed_server(
    server: Server, mongodb_uri: str, database: str, atomicity: ImportAtomicity
) -> None:
    """`kill -9` in the middle of an import that is given up, then the same import again: every row once, no gap."""
    config = ImportConfig(import_id="i", atomicity=atomicity, max_failure_ratio=0.0)
    acked = 0
    async with ClickstreamClient(server.address) as client:  # noqa: SIM117
        async with aclosing(client.import_sessions(config, chunks())) as answers:
            async for answer in answers:
                acked = answer.processed
                if acked >= 500:
                    await server.process.kill()
                    break
    await server.start()
    async with ClickstreamClient(server.address) as client, asyncio.timeout(2 * PATIENCE_S):  # noqa: SIM117
        async with aclosing(client.import_sessions(config, chunks())) as answers:
            *_, summary = [answer async for answer in answers]

    assert (4_000, 0) == (summary.sessions.inserted + summary.sessions.duplicates, summary.sessions.conflicts)
    assert acked <= summary.sessions.duplicates < 4_000
    await assert_whole(mongodb_uri, database)


async def assert_whole(mongodb_uri: str, database: str) -> None:
    """Every row is there once, numbered in the order of the stream's chunks without a gap."""
    sessions = await stored(mongodb_uri, database, "sessions")
    (batch,) = await stored(mongodb_uri, database, "batches")
    assert sorted(f"s{number:05}" for number in range(4_000)) == sorted(found["_id"] for found in sessions)
    assert list(range(1, 4_001)) == sorted(found["session_number"] for found in sessions)
    assert 4_000 == batch["session_counter"]
    assert 8_000 == len(await stored(mongodb_uri, database, "events"))


# --- exports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_s", [0.0, 5.5])
async def test_an_export_survives_a_killed_server(
    server: Server, mongodb_uri: str, database: str, pause_s: float
) -> None:
    """Over a `kill -9` an export goes on where it was, also if its reader takes longer than `stream_resume_s`."""
    # Large enough that most of it has not been sent ahead when the server dies.
    meta = {"text": "x" * 20_000}
    async with ClickstreamClient(server.address, stream_resume_s=5.0) as client:
        for at in range(0, 1_600, 200):
            await asyncio.gather(
                *(
                    client.register_session(Session(session_id=f"s{n:05}", created_at=NOON, search_meta=meta))
                    for n in range(at, at + 200)
                )
            )
        ids: list[str] = []
        killed = False
        trailer = None
        async with asyncio.timeout(2 * PATIENCE_S), aclosing(client.export_sessions(ExportFilter())) as pages:
            async for page in pages:
                ids.extend(found.session.session.session_id for found in page.sessions)
                trailer = page.trailer
                if not killed:
                    killed = True
                    pause_until = monotonic() + pause_s
                    await eventually(lambda until=pause_until: holds(monotonic() >= until), "the reader is done")
                    await server.kill_and_restart()

    assert [f"s{number:05}" for number in range(1_600)] == ids
    assert trailer is not None
    assert 1_600 == trailer.session_count
