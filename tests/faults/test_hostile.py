"""Clients that mean harm, or do it by mistake: a server process pays with bounded memory and serves the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from http2 import OPENED, PING, SETTINGS, frame, stop_short

from clickstream import ClickstreamClient, Session
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceStub
from harness import PATIENCE_S, ServerProcess, eventually, free_address, rss_bytes, stands_still

MIB = 1024 * 1024
MILLION = 1_000_000
READERS = 30
ANSWERS_MOST = 1_000
# A window of its own for each, and one that does not grow with the delays of this machine.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.enable_retries", 0)]


@pytest.fixture
async def server(mongodb_uri: str, database: str) -> AsyncIterator[ServerProcess]:
    """A server, whose health can be asked for on a port of its own, too."""
    health = free_address()
    found = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, health_listen=health)
    found.health_address = health
    yield found
    await found.stop()
    assert "Traceback" not in found.errors


class Watch:
    """How much the server's memory has grown, at most, since this was made."""

    def __init__(self, server: ServerProcess) -> None:
        self._pid = server.pid
        self._before = self._most = rss_bytes(self._pid)
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self._most = max(self._most, rss_bytes(self._pid))
            await asyncio.sleep(0.05)

    def grown(self) -> int:
        self._watching.cancel()
        return max(self._most, rss_bytes(self._pid)) - self._before


async def serves(server: ServerProcess) -> None:
    """The server still takes on and answers a good call."""
    async with ClickstreamClient(server.address, deadline_s=2 * PATIENCE_S) as client:
        await client.register_session(Session(session_id="good"))


@pytest.mark.parametrize("name", ["GetBatchSessions", "ExportSessions"])
async def test_readers_that_do_not_read(server: ServerProcess, name: str) -> None:
    """Readers that take one answer and no more cost a few MiB each, however much there is to read."""
    async with ClickstreamClient(server.address) as client:
        for start in range(0, 1_000, 50):
            sessions = [Session(session_id=f"s{start + n}", search_query="x" * 30_000) for n in range(50)]
            done = await asyncio.gather(*map(client.register_session, sessions))
    watch = Watch(server)
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=OPTIONS))
            if name == "ExportSessions":
                call: Any = TransferServiceStub(channel).ExportSessions(pb_transfer.ExportSessionsRequest())
            else:
                request = pb.GetBatchSessionsRequest(batch_id=done[0].session.batch_id)
                call = ClickstreamServiceStub(channel).GetBatchSessions(request)
            await call.read()
        for _ in range(10):  # what it would read on without a bound
            await serves(server)
    grown = watch.grown()

    assert grown < READERS * 8 * MIB


async def test_a_producer_that_reads_no_answers(server: ServerProcess) -> None:
    """A stream of events whose client takes no acknowledgements is not read on, and what is to be said is bounded."""
    event = event_pb2.SessionEvent(session_id="s", event_id="e" * 250, object_id=" ")
    refused = [event] * 1_000  # so that an answer is far larger than its request
    watch = Watch(server)
    written = 0
    async with grpc.aio.insecure_channel(server.address, options=OPTIONS) as channel:
        call = TransferServiceStub(channel).StreamEvents()

        async def send() -> None:
            nonlocal written
            for sequence in range(1, ANSWERS_MOST):
                await call.write(pb_transfer.StreamEventsRequest(sequence=sequence, events=refused))
                written = sequence

        async def wrote() -> bool:
            return written > 0

        sending = asyncio.create_task(send())
        await eventually(wrote, "the first is written")
        held_at = await stands_still(lambda: written)
        await serves(server)
        still_at = await stands_still(lambda: written)
        sending.cancel()
        call.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert held_at == still_at
    assert still_at < ANSWERS_MOST / 4
    assert watch.grown() < 200 * MIB


async def test_large_messages_at_once(server: ServerProcess) -> None:
    """Forty messages of 7 MiB and twenty of 14 MiB that are refused cost half as much memory as they have bytes."""
    query = {"string_value": "x" * 7 * MIB}
    invalid = pb.RegisterSessionRequest(session={"session_id": "x", "search_query": query}).SerializeToString()
    options = [*OPTIONS, ("grpc.max_send_message_length", -1)]
    watch = Watch(server)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            for _ in range(4)
        ]
        calls = [
            channels[number % 4].unary_unary("/clickstream.v1.ClickstreamService/RegisterSession")(
                invalid if number % 3 else invalid * 2, timeout=4 * PATIENCE_S
            )
            for number in range(60)
        ]
        found = await asyncio.gather(*calls, serves(server), return_exceptions=True)
    codes = [error.code() for error in found if isinstance(error, grpc.aio.AioRpcError)]

    assert 60 == len(codes)
    assert {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED} >= set(codes)
    assert found[-1] is None
    assert watch.grown() < 300 * MIB


@pytest.mark.parametrize("name", ["RegisterSession", "GetBatchSessions"])
async def test_requests_that_go_on_and_on(name: str, mongodb_uri: str, database: str) -> None:
    """Eight requests that say they have a gigabyte are given up long before, though no more than may be slow."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, message_bytes_max=MIB)
    watch = Watch(server)
    method = f"/clickstream.v1.ClickstreamService/{name}"
    async with asyncio.timeout(2 * PATIENCE_S):
        senders = asyncio.gather(*(stop_short(server.address, method, 1024 * MIB) for _ in range(8)))
        await serves(server)
        await senders
    grown = watch.grown()
    await server.stop()

    assert grown < 500 * MIB


@pytest.mark.parametrize("port", ["main", "health"])
@pytest.mark.parametrize("name", ["Check", "Watch"])
@pytest.mark.parametrize("size", [14 * MIB, 1024 * MIB])
async def test_health_requests_that_stop_short(server: ServerProcess, size: int, name: str, port: str) -> None:
    """Forty strangers whose requests to health have 14 MiB but for a byte, or go on and on, are soon sent away."""
    address = server.address if port == "main" else server.health_address
    watch = Watch(server)
    async with asyncio.timeout(2 * PATIENCE_S), grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        strangers = asyncio.gather(*(stop_short(address, f"/grpc.health.v1.Health/{name}", size) for _ in range(40)))
        await serves(server)
        answer = await HealthStub(channel).Check(HealthCheckRequest())
        await strangers

    assert HealthCheckResponse.SERVING == answer.status
    assert watch.grown() < 300 * MIB


@pytest.mark.parametrize("packed", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize(
    "method",
    [
        "grpc.health.v1.Health/Check",
        "clickstream.v1.ClickstreamService/RegisterSession",
        "clickstream.v1.TransferService/StreamEvents",
    ],
)
async def test_packed_requests_are_not_unpacked(server: ServerProcess, method: str, packed: grpc.Compression) -> None:
    """Requests of 30 KB that have 30 MiB when they are unpacked end as UNIMPLEMENTED before that."""
    watch = Watch(server)
    async with AsyncExitStack() as stack:
        options = [*OPTIONS, ("grpc.max_send_message_length", -1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            for _ in range(4)
        ]
        calls = [
            channel.unary_unary(f"/{method}")(bytes(30 * MIB), compression=packed, timeout=PATIENCE_S)
            for channel in channels
        ]
        found = await asyncio.gather(*calls, return_exceptions=True)
        await serves(server)
    codes = [error.code() for error in found if isinstance(error, grpc.aio.AioRpcError)]

    assert [grpc.StatusCode.UNIMPLEMENTED] * len(calls) == codes
    assert watch.grown() < 40 * MIB


@pytest.mark.parametrize("kind", [PING, SETTINGS])
async def test_pings_and_settings_without_end(server: ServerProcess, kind: int) -> None:
    """Strangers who send them as fast as they are taken, and take no answer, cost a few MiB, and nobody waits."""
    flood = frame(kind, 0, 0, bytes(8) if kind == PING else b"") * 1_000
    watch = Watch(server)
    async with AsyncExitStack() as stack:
        host, _, port = server.address.rpartition(":")
        for _ in range(3):
            stranger = stack.enter_context(socket.create_connection((host, int(port))))
            stranger.setblocking(False)
            with suppress(TimeoutError):
                for data in [OPENED, *[flood] * 1_000]:
                    async with asyncio.timeout(1):  # or until no more is taken
                        await asyncio.get_running_loop().sock_sendall(stranger, data)
        await serves(server)

    assert watch.grown() < 64 * MIB


def of_a_million(kind: str) -> tuple[str, Message, str]:
    """The method and the request with a million of these, a few bytes each, and what is said of it."""
    nulls = struct_pb2.Value(list_value=struct_pb2.ListValue.FromString(b"\x0a\x02\x08\x00" * MILLION))
    if kind == "statuses":
        statuses = pb.ListBatchesRequest(statuses=[1] * MILLION)
        return "ListBatches", statuses, "statuses: must be 100 at most, not 1000000"
    if kind == "results":
        results = session_pb2.Session.FromString(b"\x1a\x00" * MILLION)
        said = "session.search_results: must be 1000 at most, not 1000000"
        return "RegisterSession", pb.RegisterSessionRequest(session=results), said
    if kind == "values":
        session = session_pb2.Session(session_id="s", search_query=nulls)
        said = "session: a session must have 1048576 bytes as JSON at most, and this one has more"
        return "UpdateSession", pb.UpdateSessionRequest(session=session), said
    event = event_pb2.SessionEvent(session_id="s", object_id="o", event_id="e")
    event.meta.fields["a"].struct_value.fields["b"].CopyFrom(nulls)
    said = "events[0].meta: must have 65536 bytes as JSON at most, and this has more"
    return "PushEvents", pb.PushEventsRequest(events=[event]), said


@pytest.mark.parametrize("kind", ["statuses", "results", "values", "values of an event"])
async def test_what_has_millions_of_parts_is_not_looked_through(server: ServerProcess, kind: str) -> None:
    """A request with a million parts is refused for their number, before anything is made of them."""
    method, request, said = of_a_million(kind)
    async with grpc.aio.insecure_channel(server.address, options=OPTIONS) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            call = channel.unary_unary(f"/clickstream.v1.ClickstreamService/{method}")
            await call(request.SerializeToString(), timeout=PATIENCE_S)
    await serves(server)

    assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
    assert said == raised.value.details()
