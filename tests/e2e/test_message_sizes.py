"""The client's streams and the commands keep to the size of a message, whatever it is set to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
