"""Clients and servers of different versions: what one of them does not know yet does not break the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message
from polyglot.proxy import Change, proxy_to

from clickstream import ClickstreamClient, InvalidField, Session, SessionEvent, WriteOutcome
from clickstream.errors import ClickstreamError, FailedPrecondition
from harness import run_program

DESCRIPTORS = Path(__file__).resolve().parents[2] / "protos" / "clickstream.binpb"
PACKAGE = "clickstream.v1"
MORE_TEXT = "a field of the next version"
NEXT_VALUE = 77


class NextVersion:
    """The protos of a version to come: every message has one field more, and every enum one value more."""

    def __init__(self) -> None:
        descriptors = FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptors.file:
            if file.package == PACKAGE:
                for message in file.message_type:
                    message.field.add(
                        name="more",
                        number=1000,
                        type=FieldDescriptorProto.TYPE_STRING,
                        label=FieldDescriptorProto.LABEL_OPTIONAL,
                    )
                for enum in file.enum_type:
                    prefix = enum.value[0].name.removesuffix("UNSPECIFIED")
                    enum.value.add(name=f"{prefix}NEXT", number=NEXT_VALUE)
            self._pool.Add(file)

    def message(self, name: str, **fields: Any) -> Any:
        kind = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        return kind(**fields)

    async def call(self, channel: grpc.aio.Channel, method: str, **fields: Any) -> Any:
        """A unary call as a client of the next version makes it."""
        answer = self.message(f"{method}Response")
        call = channel.unary_unary(
            f"/{PACKAGE}.ClickstreamService/{method}",
            request_serializer=type(answer).SerializeToString,
            response_deserializer=type(answer).FromString,
        )
        return await call(self.message(f"{method}Request", **fields), timeout=20)

    def answer(self, method: str, answer: bytes, change: Callable[[Any], None]) -> bytes:
        """The answer as a server of the next version sends it."""
        read = self.message(f"{method}Response")
        read.MergeFromString(answer)
        change(read)
        return read.SerializeToString()


def add_more(message: Message) -> None:
    """Set the new field, here and in all messages inside."""
    if message.DESCRIPTOR.file.package == PACKAGE:
        message.more = MORE_TEXT  # type: ignore[attr-defined]
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.file.package == PACKAGE:
            for inner in value if field.is_repeated else [value]:
                add_more(inner)


@pytest.fixture(scope="module")
def newer() -> NextVersion:
    return NextVersion()


@pytest.fixture
async def channel(client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(client.target) as channel:
        yield channel


# --- a newer client, our server -------------------------------------------------------------------------------------


async def test_fields_of_a_newer_client_are_ignored(
    newer: NextVersion, client: ClickstreamClient, channel: grpc.aio.Channel
) -> None:
    """What a newer client sends is stored without the fields that are not known here, and is the same content."""
    session = {"session_id": "s", "search_results": [{"object_id": "o", "more": "x"}], "more": "x"}
    event = {"session_id": "s", "event_id": "e", "object_id": "o", "more": "x"}
    registered = await newer.call(channel, "RegisterSession", session=session, more="x")
    pushed = await newer.call(channel, "PushEvents", events=[event], more="x")

    again = await client.register_session(Session(session_id="s", search_results=[{"object_id": "o"}]))
    repeated = await client.push_events([SessionEvent(session_id="s", event_id="e", object_id="o")])

    assert ("", "", 1) == (registered.more, registered.session.more, pushed.inserted)
    assert (WriteOutcome.DUPLICATE, 1) == (again.outcome, repeated.duplicates)


async def test_enum_values_of_a_newer_client_are_refused(newer: NextVersion, channel: grpc.aio.Channel) -> None:
    """An enum value that is not known here is INVALID_ARGUMENT at its field's path."""
    sort_by = {"field": "price", "order": "ORDER_NEXT"}
    status = "SESSION_BATCH_STATUS_NEXT"
    calls: dict[str, Awaitable[Any]] = {
        "session.sort_by.order": newer.call(
            channel, "RegisterSession", session={"session_id": "s", "sort_by": sort_by}
        ),
        "statuses[1]": newer.call(channel, "ListBatches", statuses=["SESSION_BATCH_STATUS_RELEASED", status]),
        "status": newer.call(channel, "UpdateBatchStatus", batch_id="b", status=status),
    }
    for path, call in calls.items():
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
        assert f"{path}: {NEXT_VALUE} is not a known" in raised.value.details()


async def test_a_method_of_a_newer_client_is_unimplemented(channel: grpc.aio.Channel) -> None:
    """A method that there is not yet is UNIMPLEMENTED."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary(f"/{PACKAGE}.ClickstreamService/ForgetSession")(b"", timeout=20)

    assert grpc.StatusCode.UNIMPLEMENTED == raised.value.code()


# --- a newer server, our client -------------------------------------------------------------------------------------


def changed(newer: NextVersion, change: Callable[[Any], None]) -> Change:
    return lambda method, answer: newer.answer(method, answer, change)


async def test_fields_of_a_newer_server_are_ignored(newer: NextVersion, client: ClickstreamClient) -> None:
    """A client reads what it knows of a newer server's answers, however deep the new fields stand."""
    session = Session(session_id="s", search_results=[{"object_id": "o"}], sort_by={"field": "price"})
    async with (
        proxy_to(client.target, change=changed(newer, add_more)) as address,
        ClickstreamClient(address) as through,
    ):
        registered = await through.register_session(session)
        bad = SessionEvent.model_construct(session_id="s", event_id="e" * 300, object_id="o")
        pushed = await through.push_events([SessionEvent(session_id="s", event_id="e", object_id="o"), bad])
        batch = (await through.release_batch("r")).batch
        read = [found async for found in through.get_batch_sessions(batch.batch_id)]

        assert (await client.register_session(session)).session == registered.session
        assert (1, 1, 1) == (pushed.inserted, pushed.rejected, len(pushed.failures))
        assert [await client.get_session("s")] == read
        assert (await client.list_batches()).batches == (await through.list_batches()).batches == (batch,)


def next_outcome(answer: Any) -> None:
    answer.outcome = NEXT_VALUE


def next_status(answer: Any) -> None:
    answer.batch.status = NEXT_VALUE


def next_order(answer: Any) -> None:
    answer.sessions[0].session.sort_by.order = NEXT_VALUE


async def test_enum_values_of_a_newer_server_are_named(newer: NextVersion, client: ClickstreamClient) -> None:
    """A client does not guess what an enum value means that it does not know: it raises InvalidField and names it."""
    registered = await client.register_session(Session(session_id="s"))
    batch_id = registered.session.batch_id

    async def read(through: ClickstreamClient) -> None:
        async for _ in through.get_batch_sessions(batch_id):
            pass

    calls: list[tuple[Callable[[Any], None], str, Callable[[ClickstreamClient], Awaitable[Any]]]] = [
        (next_outcome, "WriteOutcome", lambda through: through.register_session(Session(session_id="s"))),
        (next_status, "SessionBatchStatus", lambda through: through.get_batch(batch_id)),
        (next_order, "Order", read),
    ]
    for change, enum, call in calls:
        async with (
            proxy_to(client.target, change=changed(newer, change)) as address,
            ClickstreamClient(address) as through,
        ):
            with pytest.raises(InvalidField, match=f"{NEXT_VALUE} is not a known {enum}"):
                await call(through)


async def test_a_reason_of_a_newer_server_is_its_code(client: ClickstreamClient) -> None:
    """An error whose reason a client does not know is that of its code."""
    frozen = FailedPrecondition("not now")
    frozen.reason = "BATCH_FROZEN"

    async with proxy_to(client.target, refuse=lambda *_: frozen) as address, ClickstreamClient(address) as through:
        with pytest.raises(FailedPrecondition, match="not now") as raised:
            await through.get_session("s")

    assert (FailedPrecondition, "") == (type(raised.value), raised.value.reason)


async def test_an_older_server_lacks_a_method() -> None:
    """A method that the server does not have yet is an error with the code UNIMPLEMENTED."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with ClickstreamClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(ClickstreamError) as raised:
                await client.release_batch("r")
    finally:
        await server.stop(grace=None)

    assert grpc.StatusCode.UNIMPLEMENTED == raised.value.code


async def test_the_program_tells_its_version() -> None:
    """`clickstream --version` is one line with the version of the distribution."""
    assert (0, f"clickstream {version('clickstream')}\n", "") == await run_program("--version")
