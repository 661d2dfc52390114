"""Calls with tokens, good ones and others, against a real server."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest
from guarded import Guarded
from http2 import connected, ended

from clickstream import (
    ClickstreamClient,
    EventBatch,
    InvalidCredentials,
    MethodNotAllowed,
    MissingCredentials,
    Session,
    SessionEvent,
    SyncClickstreamClient,
    TokenFile,
    Unauthenticated,
)
from clickstream.call_errors import failure_of
from clickstream.export import ExportFilter
from clickstream.transfer import ImportChunk, ImportConfig, ImportItem
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream_server.security.gate import Gate, Refusal
from clickstream_server.security.roles import Role
from clickstream_server.security.token_file import TokenFile as ServersFile
from clickstream_server.security.token_file import change
from clickstream_server.security.tokens import added, key_id_of, new_token
from harness import PATIENCE_S, ServerProcess, eventually

UNKNOWN = new_token("nobody", [Role.ADMIN])[0]
REGISTER = "/clickstream.v1.ClickstreamService/RegisterSession"
LIST = b"/clickstream.v1.ClickstreamService/ListBatches"


async def refused(guarded: Guarded, *headers: str) -> Unauthenticated:
    """What a call with these authorization headers ends with."""
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            metadata = tuple(("authorization", header) for header in headers)
            await ClickstreamServiceStub(channel).ListBatches(pb.ListBatchesRequest(), metadata=metadata, timeout=30)
    failure = failure_of(raised.value)
    assert isinstance(failure, Unauthenticated)
    return failure


async def test_calls_of_every_shape_carry_the_token(guarded: Guarded) -> None:
    """With tokens of the right roles, unary calls and streams of each kind work as without tokens."""
    async with guarded.client("producer") as producer:
        await producer.register_session(Session(session_id="s"))
        async with producer.event_stream() as stream:
            await stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))
    async with guarded.client("operator") as operator:

        async def chunks() -> Any:
            yield ImportChunk(1, [ImportItem(Session(session_id="i"))])

        imported = [answer async for answer in operator.import_sessions(ImportConfig(import_id="1"), chunks())]
        batch = (await operator.release_batch("r")).batch
    async with guarded.client("consumer") as consumer:
        read = [found.session.session_id async for found in consumer.get_batch_sessions(batch.batch_id)]
        exported = [page async for page in consumer.export_sessions(ExportFilter(batch_id=batch.batch_id))]

    assert ["s", "i"] == read
    assert 1 == imported[-1].processed
    assert exported[-1].trailer is not None
    assert (2, 1) == (exported[-1].trailer.session_count, exported[-1].trailer.event_count)


async def test_the_synchronous_client_carries_the_token(guarded: Guarded, tmp_path: Path) -> None:
    """The client that is not asynchronous carries its token, too, also from a file with a line's end."""
    file = tmp_path / "mine.token"
    file.write_text(guarded.tokens["admin"] + "\n")

    def work() -> int:
        with SyncClickstreamClient(guarded.address, token=TokenFile(file)) as client:
            client.register_session(Session(session_id="s"))
            with client.event_stream() as stream:
                stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))
            batch = client.release_batch("r").batch
            return sum(len(found.events) for found in client.get_batch_sessions(batch.batch_id))

    assert 1 == await asyncio.to_thread(work)


async def test_other_metadata_goes_beside_the_token(guarded: Guarded) -> None:
    """What a call carries besides, such as its trace, still arrives."""
    async with guarded.client("consumer") as client:
        call = client._stub.ListBatches(pb.ListBatchesRequest(), metadata=(("x-request-id", "mine"),), timeout=30)
        await call

        assert "mine" == dict(tuple(await call.trailing_metadata()))["x-request-id"]


async def test_a_callable_gives_the_token_of_each_call(guarded: Guarded) -> None:
    """What it returns at a call is what that call carries; what cannot be sent ends as MissingCredentials, unshown."""
    given: Iterator[str] = iter([guarded.tokens["producer"], guarded.tokens["consumer"], "not\nto be sent", ""])
    async with ClickstreamClient(guarded.address, token=lambda: next(given)) as client:
        await client.register_session(Session(session_id="s"))
        assert 1 == len((await client.list_batches()).batches)
        for _ in range(2):
            with pytest.raises(MissingCredentials) as raised:
                await client.list_batches()
            assert "not" not in str(raised.value).split("must")[0]


async def test_a_token_file_may_be_written_over(guarded: Guarded, tmp_path: Path) -> None:
    """While the file is empty, as before it is written to, the token that it had counts; no copy takes it along."""
    file = tmp_path / "mine.token"
    file.write_text(guarded.tokens["producer"])
    given = TokenFile(file)
    async with ClickstreamClient(guarded.address, token=given) as client:
        await client.register_session(Session(session_id="s"))
        file.write_text("")
        await client.register_session(Session(session_id="s"))
        file.write_text(guarded.tokens["consumer"])
        assert 1 == len((await client.list_batches()).batches)

    assert guarded.tokens["consumer"].encode() not in pickle.dumps(given)
    assert given == pickle.loads(pickle.dumps(given)) == TokenFile(file)  # our own
    assert "cst_" not in repr(given)


async def test_a_token_file_that_is_gone_is_said(guarded: Guarded, tmp_path: Path) -> None:
    """A call whose token cannot be read ends as MissingCredentials with the file's name; nothing is sent."""
    async with ClickstreamClient(guarded.address, token=TokenFile(tmp_path / "gone")) as client:
        with pytest.raises(MissingCredentials, match="gone cannot be read: No such file"):
            await client.list_batches()


async def test_without_a_token_the_message_says_what_to_send(guarded: Guarded) -> None:
    """MISSING_CREDENTIALS says which metadata the server wants."""
    failure = await refused(guarded)

    assert MissingCredentials is type(failure)
    assert "authorization: Bearer TOKEN" in failure.message


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "the word Bearer"),
        ("Bearer", "not a token of this service"),
        ("Bearer ", "not a token of this service"),
        ("Basic dXNlcjpwYXNz", "the word Bearer"),
        ("{good}", "the word Bearer"),
        ("Bearer,{good}", "the word Bearer"),
        ("Bearer  {good}", "not a token of this service"),
        ("Bearer {good}x", "not a token of this service"),
        ("Bearer {good},{good}", "not a token of this service"),
        ("Bearer cst_0123456789abcdef_" + 64 * "0", "not known here"),
    ],
)
async def test_credentials_that_are_none_are_refused(guarded: Guarded, header: str, words: str) -> None:
    """Another scheme, half a token, one with something added: INVALID_CREDENTIALS, with words, without the token."""
    good = guarded.tokens["admin"]
    failure = await refused(guarded, header.format(good=good))

    assert InvalidCredentials is type(failure)
    assert words in failure.message
    assert good not in str(failure.message)


async def test_a_wrong_secret_is_told_from_an_unknown_token_by_nobody(guarded: Guarded) -> None:
    """A known key id with another secret, and a key id that is not there, get the same answer, word for word."""
    good = guarded.tokens["admin"]
    guessed = await refused(guarded, "Bearer " + good[:-1] + ("0" if good[-1] != "0" else "1"))
    unknown = await refused(guarded, f"Bearer {UNKNOWN}")

    assert (InvalidCredentials, guessed.message) == (type(unknown), unknown.message)


async def test_the_word_bearer_may_be_written_as_one_likes(guarded: Guarded) -> None:
    """The scheme's case does not matter, as HTTP has it."""
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        for scheme in ("bearer", "BEARER"):
            metadata = (("authorization", f"{scheme} {guarded.tokens['consumer']}"),)
            await ClickstreamServiceStub(channel).ListBatches(pb.ListBatchesRequest(), metadata=metadata, timeout=30)


async def test_two_headers_are_refused_though_one_is_good(guarded: Guarded) -> None:
    """With two authorization headers nobody knows which one counts."""
    failure = await refused(guarded, f"Bearer {guarded.tokens['admin']}", f"Bearer {guarded.tokens['producer']}")

    assert "2 authorization headers" in failure.message


async def test_a_huge_header_ends_the_call_and_nothing_else(guarded: Guarded) -> None:
    """A header beyond gRPC's bound for metadata is refused by gRPC; on the same connection, good calls go on."""
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        stub = ClickstreamServiceStub(channel)
        good = (("authorization", f"Bearer {guarded.tokens['consumer']}"),)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            huge = (("authorization", "Bearer " + 200_000 * "x"),)
            await stub.ListBatches(pb.ListBatchesRequest(), metadata=huge, timeout=30)
        await stub.ListBatches(pb.ListBatchesRequest(), metadata=good, timeout=30)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()


@pytest.mark.parametrize("value", [b"Bearer \xff\xfe", "Bearer \u00e9".encode(), b"Bearer \x00", b"Bearer a\r\nb: c"])
async def test_bytes_that_no_client_would_send_are_refused(
    guarded: Guarded, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    """A header with bytes beyond ASCII, sent past any client's checks, is INVALID_CREDENTIALS, and not in the log."""
    host, _, port = guarded.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw_call((b"authorization", value)))
    answer = b""
    while b"x-request-id" not in answer:  # the last thing that an answer has
        more = await asyncio.wait_for(reader.read(4096), PATIENCE_S)
        assert more, "the server closed the connection"
        answer += more
    writer.close()
    await writer.wait_closed()

    said = [record.getMessage() for record in caplog.records if record.name.endswith("gate")]
    assert 1 == len(said)
    assert said[0].endswith(": INVALID_CREDENTIALS")
    assert "\n" not in said[0]


async def test_no_log_tells_what_is_no_text(mongodb_uri: str, database: str, tmp_path: Path) -> None:
    """A token with a byte too many, and a name of a method that is no UTF-8, leave nothing of them in the log."""
    token, line = new_token("shop", [Role.PRODUCER])
    file = tmp_path / "tokens"
    file.write_text(line.text())
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, tokens_file=file)
    for header, path in (((b"authorization", f"Bearer {token}".encode() + b"\xff"), LIST), ((b"a", b"b"), b"/\xff")):
        reader, writer = await connected(process.address)
        writer.write(raw_call(header, path))
        async with asyncio.timeout(PATIENCE_S):
            await ended(reader)
        writer.close()
        await writer.wait_closed()
    assert 0 == await process.stop()

    assert token.rpartition("_")[2] not in process.errors
    assert [" INVALID_CREDENTIALS"] == [said.rpartition(":")[2] for said in process.errors.splitlines()]


def raw_call(header: tuple[bytes, bytes], path: bytes = LIST) -> bytes:
    """The bytes of a call on a connection of its own, with this header (RFC 9113 and RFC 7541)."""
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        header,
    ]
    packed = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers)
    settings, begin, data = (4, 0, 0, b""), (1, 4, 1, packed), (0, 1, 1, bytes(5))
    frames = (
        len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
        for kind, flags, stream, content in (settings, begin, data)
    )
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(frames)


async def test_nothing_of_a_refused_request_is_read(guarded: Guarded) -> None:
    """Who is not let in learns nothing of the request: one that is no protobuf ends as MISSING_CREDENTIALS, too."""
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(REGISTER)(b"\xff\xff\xff", timeout=30)

    assert grpc.StatusCode.UNAUTHENTICATED == raised.value.code()
    assert any(key == "x-request-id" for key, _ in raised.value.trailing_metadata())


async def test_a_full_server_asks_for_the_token_first(mongodb_uri: str, database: str, tmp_path: Path) -> None:
    """Past the bound of calls, too, who is not let in gets MISSING_CREDENTIALS, and so is no part of the overload."""
    async with (
        Guarded.started(mongodb_uri, database, tmp_path / "tokens", calls_max=1) as guarded,
        grpc.aio.insecure_channel(guarded.address) as channel,
    ):
        metadata = (("authorization", f"Bearer {guarded.tokens['producer']}"),)
        calls = [channel.stream_unary(REGISTER)(metadata=metadata, timeout=2 * PATIENCE_S) for _ in range(2)]

        async def is_full() -> bool:  # one is taken, and its request does not come; the other is refused
            return any(call.done() for call in calls)

        await eventually(is_full, "there is no room")
        refusal = await refused(guarded)
        ended = [call.done() for call in calls]
        for call in calls:
            call.cancel()

    assert isinstance(refusal, MissingCredentials)
    assert [False, True] == sorted(ended)


async def test_a_role_that_does_not_do_is_named_with_those_that_would(guarded: Guarded) -> None:
    """METHOD_NOT_ALLOWED names the token, its roles, the method, and the roles that may."""
    async with guarded.client("consumer") as client:
        with pytest.raises(MethodNotAllowed) as raised:
            await client.release_batch("r")

    assert (
        "the token of consumer has the roles consumer; ReleaseBatch needs one of operator, admin"
        == raised.value.message
    )


async def test_a_refused_stream_says_why(guarded: Guarded) -> None:
    """Streams of both directions that are not let in end with the same errors, and the clients give up at once."""
    event = SessionEvent(session_id="s", event_id="e", object_id="o")
    async with guarded.client("consumer") as client:

        async def batches() -> Any:
            yield EventBatch(1, [event])

        with pytest.raises(MethodNotAllowed):
            async with client.event_stream() as stream:
                await stream.send(event)
                await stream.flush()
        with pytest.raises(MethodNotAllowed):
            async with aclosing(client.stream_events(batches())) as acks:
                await anext(acks)


async def test_refusals_are_logged_by_name_and_never_by_token(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says who was refused what, from where and why, and holds no token, right or wrong."""
    wrong = guarded.tokens["operator"][:-4] + "0000"
    with caplog.at_level(logging.DEBUG):
        async with guarded.client("consumer") as client:
            with pytest.raises(MethodNotAllowed):
                await client.release_batch("r")
        await refused(guarded, f"Bearer {wrong}")
        await refused(guarded, f"Bearer {UNKNOWN}")
        await refused(guarded)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("gate")]

    assert 4 == len(said)
    assert said[0].startswith(
        "refused /clickstream.v1.ClickstreamService/ReleaseBatch to the token of consumer at ipv4:127.0.0.1:"
    )
    assert said[0].endswith(": METHOD_NOT_ALLOWED")
    assert "to the token of operator" in said[1]
    assert said[2].startswith(
        "refused /clickstream.v1.ClickstreamService/ListBatches to a token that is not in the file, "
        f"key id {key_id_of(UNKNOWN)}, at "
    )
    assert " to someone unknown at " in said[3]
    assert said[3].endswith(": MISSING_CREDENTIALS")
    secrets = [token.rpartition("_")[2] for token in (*guarded.tokens.values(), wrong, UNKNOWN)]
    assert not any(secret in caplog.text for secret in secrets)


def test_that_a_tokens_file_can_be_used_again_is_told_as_its_fault_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level that is the default, who has mended the file sees that it was taken."""
    file = tmp_path / "tokens"
    change(file, lambda content: added(content, new_token("shop", [Role.PRODUCER])[1]))
    tokens, good = ServersFile(file), file.read_bytes()
    with caplog.at_level(logging.WARNING):
        for content in (b"nonsense", good):
            file.write_bytes(content)
            tokens.look()
    fault, mended = [record.getMessage() for record in caplog.records]

    assert fault.endswith("; the tokens from before still count")
    assert mended.endswith(" was read again: 1 tokens")


def test_every_refusal_is_counted_and_few_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand refusals in a row are counted a thousand times, by reason and name, and fill no log."""
    token, line = new_token("shop", [Role.PRODUCER])
    change(tmp_path / "tokens", lambda content: added(content, line))
    counted: list[tuple[str, str]] = []
    gate = Gate(ServersFile(tmp_path / "tokens"), refused=lambda reason, caller: counted.append((caller, reason)))
    began = monotonic()
    for _ in range(1000):
        found = gate.check([f"Bearer {token}"], {Role.CONSUMER}, "/x/Y")
        assert isinstance(found, Refusal)
        gate.report(found, "ipv4:192.0.2.1:1")

    assert 1000 * [("shop", "METHOD_NOT_ALLOWED")] == counted
    assert len(caplog.records) <= 2 + (monotonic() - began)
