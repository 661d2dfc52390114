"""Servers, clients and commands keep to the size of a message, whatever it is set to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from clickstream import (
    ClickstreamClient,
    ExportFilter,
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
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2
from clickstream.v1 import transfer_service_pb2 as transfer_pb
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceStub
from clickstream.values import MESSAGE_BYTES_MAX
from harness import PATIENCE_S, run_program, served

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
    """The synchronous client, too, stores events that fit into a message each, however many are sent."""

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


# --- answers that tell of very many failures --------------------------------------------------------------------------


async def pushed(channel: grpc.aio.Channel, events: list[event_pb2.SessionEvent]) -> Any:
    return await ClickstreamServiceStub(channel).PushEvents(pb.PushEventsRequest(events=events))


async def streamed(channel: grpc.aio.Channel, events: list[event_pb2.SessionEvent]) -> Any:
    request = transfer_pb.StreamEventsRequest(sequence=1, events=events)
    return await TransferServiceStub(channel).StreamEvents(iter([request])).read()


async def imported(channel: grpc.aio.Channel, events: list[event_pb2.SessionEvent]) -> Any:
    requests = [
        transfer_pb.ImportSessionsRequest(config=transfer_pb.ImportConfig(import_id="i")),
        transfer_pb.ImportSessionsRequest(
            chunk=transfer_pb.ImportChunk(sequence=1, items=[transfer_pb.ImportItem(events=events)])
        ),
    ]
    return (await TransferServiceStub(channel).ImportSessions(iter(requests)).read()).progress


@pytest.mark.parametrize("long_ids", [True, False])
@pytest.mark.parametrize("send", [pushed, streamed, imported])
async def test_many_failures_fit_into_a_message(mongodb_uri: str, database: str, send: Any, long_ids: bool) -> None:
    """Failures that together would be too large for a message are all told: by the start of their ids, which may have
    a kilobyte each, and where that is not enough, of their texts.
    """
    most = 64 * 1024
    ids = 60 if long_ids else 900
    chosen = [f"{number:05}" + "\N{GRINNING FACE}" * 251 * long_ids for number in range(ids)]
    options = [("grpc.max_receive_message_length", most)]
    async with (
        served(mongodb_uri, database, message_bytes_max=most) as client,
        grpc.aio.insecure_channel(client.target, options) as channel,
    ):
        await pushed(channel, [event_pb2.SessionEvent(session_id="s", event_id=one, object_id="o") for one in chosen])

        # Half of them are stored with another object, the others are clicks without one.
        told = await send(
            channel,
            [
                event_pb2.SessionEvent(session_id="s", event_id=one, object_id="other" * (place % 2))
                for place, one in enumerate(chosen)
            ],
        )

    assert sorted(one[:32] for one in chosen) == sorted(failure.id for failure in told.failures)
    assert {"INVALID_FIELD": ids // 2, "CONTENT_CONFLICT": ids // 2} == Counter(one.reason for one in told.failures)
    assert all((len(failure.message) > 32) is long_ids for failure in told.failures)


# --- other sizes than the usual ---------------------------------------------------------------------------------------

LARGE_EVENTS = 190
"""Of 60,000 bytes each: more than 8 MiB together, less than 16."""


async def test_a_larger_message_is_taken_where_it_is_set(mongodb_uri: str, database: str) -> None:
    """With a larger limit on both sides a call of 11 MB succeeds, and a session of that size is read and exported."""
    events = [
        SessionEvent(session_id="s", event_id=f"{number:03}", object_id="o", meta={"text": "x" * 60_000})
        for number in range(LARGE_EVENTS)
    ]
    most = 16 * 1024 * 1024
    async with (
        served(mongodb_uri, database, message_bytes_max=most) as usual,
        ClickstreamClient(usual.target, message_bytes_max=most, deadline_s=PATIENCE_S) as client,
    ):
        batch_id = (await client.register_session(Session(session_id="s"))).session.batch_id
        with pytest.raises(MessageTooLarge):
            await usual.push_events(events)
        pushed = await client.push_events(events)
        found = await client.get_session("s", events_limit=None)
        async with aclosing(client.get_batch_sessions(batch_id)) as sessions:
            read = [len(found.events) async for found in sessions]
        async with aclosing(client.export_sessions(ExportFilter(batch_id=batch_id))) as pages:
            exported = [len(one.session.events) async for page in pages for one in page.sessions]

    assert (LARGE_EVENTS, LARGE_EVENTS) == (pushed.inserted, len(found.events) if found else 0)
    assert ([LARGE_EVENTS], [LARGE_EVENTS]) == (read, exported)


async def test_different_limits_on_both_sides_are_told(mongodb_uri: str, database: str) -> None:
    """What gRPC itself refuses, an answer on the client's side or a request on the server's, is MessageTooLarge."""
    small, large = 64 * 1024, 16 * 1024 * 1024
    session = Session(session_id="s", search_query="x" * (3 * small))
    async with (
        served(mongodb_uri, database) as usual,
        ClickstreamClient(usual.target, message_bytes_max=small) as client,
    ):
        batch_id = (await usual.register_session(session)).session.batch_id
        with pytest.raises(MessageTooLarge, match="message_bytes_max"):
            await client.get_session("s")
        with pytest.raises(MessageTooLarge, match="message_bytes_max"):
            async with aclosing(client.get_batch_sessions(batch_id)) as sessions:
                await anext(sessions)
    async with (
        served(mongodb_uri, database, message_bytes_max=small) as usual,
        ClickstreamClient(usual.target, message_bytes_max=large) as client,
    ):
        with pytest.raises(MessageTooLarge, match="message_bytes_max"):
            await client.register_session(session)


async def test_a_smaller_message_is_kept_to(mongodb_uri: str, database: str) -> None:
    """With a smaller limit no message of a stream is larger, though all sessions come; a larger request is refused."""
    most = 64 * 1024
    meta = {f"{number:x}": number % 10 for number in range(300)}  # as a message far larger than as BSON
    async with (
        served(mongodb_uri, database, message_bytes_max=most) as client,
        grpc.aio.insecure_channel(client.target) as channel,
    ):
        for number in range(60):
            await client.register_session(Session(session_id=f"s{number}", search_meta=meta))
        batch_id = (await client.list_batches()).batches[0].batch_id
        stub, bulk = ClickstreamServiceStub(channel), TransferServiceStub(channel)
        read = [answer async for answer in stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=batch_id))]
        exported = [answer async for answer in bulk.ExportSessions(transfer_pb.ExportSessionsRequest())]
        with pytest.raises(MessageTooLarge) as raised:
            await client.register_session(Session(session_id="large", search_query="x" * most))

    assert (60, 60) == tuple(sum(len(answer.sessions) for answer in answers) for answers in (read, exported))
    assert max(answer.ByteSize() for answer in [*read, *exported]) <= most
    assert str(most) in raised.value.message


# --- the commands -----------------------------------------------------------------------------------------------------

VARIABLE = "CLICKSTREAM_MESSAGE_BYTES_MAX"


def row(session_id: str, *texts: str) -> dict[str, Any]:
    created_at = "2026-01-05T09:00:00Z"
    events = [
        {"event_id": str(number), "object_id": "o", "created_at": created_at, "meta": {"text": text}}
        for number, text in enumerate(texts)
    ]
    return {"session": {"session_id": session_id, "created_at": created_at}, "events": events}


@pytest.mark.parametrize("way", ["option", "variable"])
async def test_an_import_keeps_to_the_size_of_a_message(
    mongodb_uri: str, database: str, tmp_path: Path, way: str
) -> None:
    """Files go in where a message may be small, in as many as it takes; what fits into none is refused alone."""
    rows = [row(f"s{number}", "x" * 20_000) for number in range(100)]
    rows += [row("many events", *["x" * 20_000] * 100), row("large") | {"events": []}]
    rows[-1]["session"]["search_query"] = "x" * SMALL
    file, refused = tmp_path / "sessions.jsonl", tmp_path / "refused.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    option, variable = ([f"--message-bytes-max={SMALL}"], {}) if way == "option" else ([], {VARIABLE: str(SMALL)})
    async with small_messages(mongodb_uri, database) as client:
        target = ["--target", client.target]
        code, output, errors = await run_program(
            "import", str(file), "--errors", str(refused), *target, *option, **variable
        )
        found = await client.get_session("many events", events_limit=1)

        assert 2 == code, output + errors
        assert [102] == [json.loads(line)["line"] for line in refused.read_text().splitlines()]
        assert found is not None
        assert 100 == found.event_count
        assert await client.get_session("s99") is not None


async def test_exports_and_tails_take_larger_messages(mongodb_uri: str, database: str) -> None:
    """A session that is larger than most messages comes, where the server and the command are set to larger ones.

    Where the command is not, it names its option.
    """
    large = 4 * MESSAGE_BYTES_MAX
    async with (
        asyncio.timeout(2 * PATIENCE_S),
        served(mongodb_uri, database, message_bytes_max=large) as client,
    ):
        done = await client.register_session(Session(session_id="s"))
        async with client.event_stream() as stream:
            for number in range(300):
                await stream.send(event(number, "x" * 60_000))
        await client.release_batch("r")
        for command in (["export"], ["tail", done.session.batch_id, "--json"]):
            code, output, errors = await run_program(*command, "--target", client.target, **{VARIABLE: str(large)})
            assert (0, 300) == (code, len(json.loads(output.splitlines()[0])["events"])), errors

            code, _, errors = await run_program(*command, "--target", client.target)
            assert 1 == code
            assert "--message-bytes-max must be the same for the client and the server" in errors


async def test_a_size_that_no_server_can_have_is_refused() -> None:
    """A size of messages that is none ends a command with what it must be, by option or variable."""
    for option, variable in ((["--message-bytes-max=1000"], {}), ([], {VARIABLE: "8 MiB"})):
        code, _, errors = await run_program("replay", "--sample", *option, **variable)
        assert 2 == code
        assert "--message-bytes-max: must be a whole number from 65,536 to 1,073,741,823" in errors
