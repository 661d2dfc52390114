"""What the server takes on at once, and how it refuses the rest: over the wire, while MongoDB stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymongo import AsyncMongoClient

from clickstream import (
    Cancelled,
    ClickstreamClient,
    ImportChunk,
    ImportConfig,
    ImportSummary,
    Overloaded,
    Session,
    SessionEvent,
)
from clickstream.export import ExportFilter
from clickstream.throttling import Throttle
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.interceptors.receiving import SLOW_MAX
from harness import PATIENCE_S, eventually, freeze, mongod_pid, served
from importing import item
from scraping import Watched, scrape, watched

REGISTER = "/clickstream.v1.ClickstreamService/RegisterSession"


class Frozen:
    """A mongod that stands still until `thaw`."""

    def __init__(self, data_dir: Path, uri: str) -> None:
        self.uri = uri
        self._pid = mongod_pid(data_dir)

    async def freeze(self) -> None:
        await freeze(self._pid)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    async def stored(self, database: str) -> set[str]:
        async with AsyncMongoClient(self.uri) as client:
            return {found["_id"] async for found in client[database].sessions.find()}


@pytest.fixture
async def mongo(tmp_path: Path) -> AsyncIterator[Frozen]:
    mongod = EmbeddedMongo(tmp_path)
    frozen = Frozen(tmp_path, await mongod.start())
    yield frozen
    frozen.thaw()
    await mongod.stop()


@asynccontextmanager
async def channel_to(client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(client.target, options=options) as channel:
        yield channel


def registration(number: int, query: str = "lamp") -> pb.RegisterSessionRequest:
    return pb.RegisterSessionRequest(
        session=session_pb2.Session(session_id=f"s{number}", search_query={"string_value": query})
    )


def details(error: grpc.aio.AioRpcError) -> tuple[str, float, int]:
    """The reason, the delay of RetryInfo in seconds, and gRPC's pushback in milliseconds."""
    metadata = dict(tuple(error.trailing_metadata()))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return info.reason, retry.retry_delay.ToMilliseconds() / 1000, int(metadata["grpc-retry-pushback-ms"])


async def test_calls_past_the_bound_are_refused(mongo: Frozen) -> None:
    """Past the bound calls are OVERLOADED, with a delay; those that run are stored, and no other; health answers."""
    async with (
        served(mongo.uri, "calls", calls_max=3, storage_timeout_s=PATIENCE_S) as client,
        channel_to(client) as channel,
    ):
        stub = ClickstreamServiceStub(channel)
        await stub.RegisterSession(registration(0))
        await mongo.freeze()
        calls = [stub.RegisterSession(registration(number)) for number in range(1, 11)]
        done: Any = asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: _ended(calls, 7), "seven calls are refused")
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)).status
        assert (await health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).read()).status
        mongo.thaw()
        results = await done
        stored = await mongo.stored("calls")
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]

    assert {grpc.StatusCode.RESOURCE_EXHAUSTED} == {error.code() for error in refused}
    assert {"OVERLOADED"} == {details(error)[0] for error in refused}
    assert all(0 < delay_s < 5 and pushback_ms == delay_s * 1000 for _, delay_s, pushback_ms in map(details, refused))
    accepted = {f"s{number}" for number, found in enumerate(results, start=1) if not isinstance(found, Exception)}
    assert 3 == len(accepted)
    assert {"s0"} | accepted == stored


async def _ended(calls: list, count: int) -> bool:
    return count == sum(call.done() for call in calls)


async def test_streams_and_calls_do_not_starve_each_other(mongo: Frozen) -> None:
    """With all streams taken calls succeed, and with all calls taken a stream begins; one stream more is refused."""
    async with (
        served(mongo.uri, "apart", calls_max=1, streams_max=2, storage_timeout_s=PATIENCE_S) as client,
        channel_to(client) as channel,
    ):
        stub = ClickstreamServiceStub(channel)
        batch_id = (await stub.RegisterSession(registration(0))).session.batch_id
        follow = pb.GetBatchSessionsRequest(batch_id=batch_id, follow=True)
        streams = [stub.GetBatchSessions(follow) for _ in range(2)]
        for stream in streams:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as of_stream:
            await stub.GetBatchSessions(follow).read()
        assert "s1" == (await stub.RegisterSession(registration(1))).session.session.session_id

        streams[0].cancel()
        await mongo.freeze()
        running = stub.RegisterSession(registration(2))
        await eventually(lambda: _refuses(stub), "the one call is taken")
        reading = asyncio.ensure_future(stub.GetBatchSessions(follow).read())
        mongo.thaw()
        await reading
        await running

    assert ("OVERLOADED", True) == (details(of_stream.value)[0], details(of_stream.value)[1] > 0)


async def unsent_call(channel: grpc.aio.Channel) -> Any:
    """A call that the server has taken on, whose request is not sent yet; it is the only one that it takes on."""
    stub = ClickstreamServiceStub(channel)
    call = channel.stream_unary(REGISTER)(timeout=2 * PATIENCE_S)

    async def taken() -> bool:
        nonlocal call
        if call.done():  # refused, since it came while the server looked for a batch for us
            call = channel.stream_unary(REGISTER)(timeout=2 * PATIENCE_S)
        return await _refuses(stub) and not call.done()

    await eventually(taken, "the one call is taken")
    return call


async def _refuses(stub: ClickstreamServiceStub) -> bool:
    try:
        await stub.GetBatch(pb.GetBatchRequest(batch_id="b"), timeout=1.0)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


async def test_requests_in_flight_are_bounded_by_bytes(mongo: Frozen) -> None:
    """Requests that would be more bytes than may be in flight are OVERLOADED; one that is larger alone is taken."""
    large = "x" * 900_000
    async with (
        served(mongo.uri, "bytes", request_bytes_max=500_000, storage_timeout_s=PATIENCE_S) as client,
        channel_to(client) as channel,
    ):
        stub = ClickstreamServiceStub(channel)
        await stub.RegisterSession(registration(0, large))
        await mongo.freeze()
        calls = [stub.RegisterSession(registration(number, large)) for number in range(1, 6)]
        done: Any = asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: _ended(calls, 4), "four of five are refused")
        mongo.thaw()
        results = await done
        await stub.RegisterSession(registration(9, large))

    assert ["OVERLOADED"] * 4 == [details(found)[0] for found in results if isinstance(found, grpc.aio.AioRpcError)]


async def test_a_call_is_refused_before_its_request_has_come(mongo: Frozen) -> None:
    """A call past the bound is refused although no byte of its request was sent."""
    async with (
        served(mongo.uri, "early", calls_max=1, storage_timeout_s=PATIENCE_S) as client,
        channel_to(client) as channel,
    ):
        first = await unsent_call(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.stream_unary(REGISTER)(timeout=PATIENCE_S)
        first.cancel()

    assert "OVERLOADED" == details(raised.value)[0]


async def test_requests_that_do_not_come_make_room(mongodb_uri: str, database: str) -> None:
    """Of calls whose requests do not come eight may take their time; others are OVERLOADED, and keep nobody out."""
    async with served(mongodb_uri, database) as client, channel_to(client) as channel:
        calls = [channel.stream_unary(REGISTER)(timeout=4 * PATIENCE_S) for _ in range(300)]
        for call in calls:
            await call.wait_for_connection()
        await ClickstreamServiceStub(channel).RegisterSession(registration(0), timeout=PATIENCE_S)
        await eventually(lambda: _ended(calls, 300 - SLOW_MAX), "all but eight are refused")
        for call in calls:
            if not call.done():
                await call.write(registration(1).SerializeToString())
                await call.done_writing()
        found: Any = await asyncio.gather(*calls, return_exceptions=True)
    errors = [one for one in found if isinstance(one, Exception)]

    assert SLOW_MAX == len(found) - len(errors)
    assert {"OVERLOADED"} == {details(error)[0] for error in errors}


async def test_requests_of_streams_are_bounded_by_bytes(mongodb_uri: str, database: str) -> None:
    """Of streams whose requests are large, one goes on and one more is OVERLOADED; other calls do not feel them."""
    unknown = b"\xfa\x3e\x80\x89\x7a" + bytes(2_000_000)  # a field 1007 that no version of ours has
    async with served(mongodb_uri, database, request_bytes_max=3_000_000) as client, channel_to(client) as channel:
        batch_id = (await client.register_session(Session(session_id="s0"))).session.batch_id
        follow = pb.GetBatchSessionsRequest(batch_id=batch_id, follow=True).SerializeToString() + unknown
        method = channel.unary_stream("/clickstream.v1.ClickstreamService/GetBatchSessions")
        first = method(follow)
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(follow).read()
        await client.register_session(Session(session_id="s1", search_query="x" * 900_000))
        await first.read()
        first.cancel()
        await eventually(lambda: _begins(method(follow)), "there is room again")

    assert "OVERLOADED" == details(raised.value)[0]


async def _begins(stream: Any) -> bool:
    try:
        await stream.read()
    except grpc.aio.AioRpcError:
        return False
    stream.cancel()
    return True


async def test_a_call_without_a_request_is_invalid(mongodb_uri: str, database: str) -> None:
    """A call that ends before it sent a request is INVALID_ARGUMENT, and does not hang."""
    async with served(mongodb_uri, database) as client, channel_to(client) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.stream_unary(REGISTER)(iter(()), timeout=PATIENCE_S)

    assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()


# --- the Python client ----------------------------------------------------------------------------------------------


async def test_the_client_makes_refused_calls_again(mongodb_uri: str, database: str) -> None:
    """Fifty calls at once of a server that takes on two at a time all succeed, by the client's own patience."""
    async with (
        served(mongodb_uri, database, calls_max=2) as plain,
        ClickstreamClient(plain.target, deadline_s=2 * PATIENCE_S) as client,
    ):
        sessions = [Session(session_id=f"s{number}") for number in range(50)]
        done = await asyncio.gather(*map(client.register_session, sessions))

    assert list(range(1, 51)) == sorted(registration.session.session_number for registration in done)


async def test_the_client_gives_up_in_time(mongo: Frozen) -> None:
    """A call that is refused until its deadline ends as Overloaded, with the time to wait."""
    async with (
        served(mongo.uri, "given_up", calls_max=1, storage_timeout_s=PATIENCE_S) as plain,
        ClickstreamClient(plain.target, deadline_s=3.0) as client,
        channel_to(plain) as channel,
    ):
        call = await unsent_call(channel)
        with pytest.raises(Overloaded) as raised:
            await client.get_batch("b")
        call.cancel()

    assert raised.value.retry_after_s


async def test_the_client_holds_calls_back(mongodb_uri: str, database: str) -> None:
    """Once a server has refused a thousand calls of a method, some of it are sent and some are not; others all are.

    All succeed again once the server accepts them.
    """
    async with (
        served(mongodb_uri, database, calls_max=1) as plain,
        ClickstreamClient(plain.target, deadline_s=PATIENCE_S) as client,
        channel_to(plain) as channel,
    ):
        batch_id = (await client.register_session(Session(session_id="s"))).session.batch_id
        call = await unsent_call(channel)
        await asyncio.gather(*(_overloaded(client) for _ in range(Throttle.FREE)))
        refusals = [await _overloaded(client) for _ in range(100)]
        others = asyncio.gather(*(client.get_session("s") for _ in range(20)))
        call.cancel()
        assert None not in await others
        await eventually(lambda: _is_there(client, batch_id), "calls of the refused method succeed again")

    assert all(refused.retry_after_s for refused in refusals)
    # The server gives each call that comes an id.
    assert 0 < len([refused for refused in refusals if refused.request_id]) < 100


async def test_a_closed_client_says_so_also_while_it_holds_back(mongodb_uri: str, database: str) -> None:
    """Calls of a closed client end as Cancelled, whether they would be sent or not."""
    async with (
        served(mongodb_uri, database, calls_max=1) as plain,
        ClickstreamClient(plain.target, deadline_s=PATIENCE_S) as client,
        channel_to(plain) as channel,
    ):
        call = await unsent_call(channel)
        await asyncio.gather(*(_overloaded(client) for _ in range(Throttle.FREE)))
        await client.close()
        ended = await asyncio.gather(*(client.get_batch("b") for _ in range(20)), return_exceptions=True)
        call.cancel()

    assert {Cancelled} == set(map(type, ended))


async def _is_there(client: ClickstreamClient, batch_id: str) -> bool:
    try:
        return await client.get_batch(batch_id) is not None
    except Overloaded:
        return False


async def _overloaded(client: ClickstreamClient) -> Overloaded:
    with pytest.raises(Overloaded) as raised:
        await client.get_batch("b")
    return raised.value


async def test_errors_of_the_domain_are_no_refusals(mongodb_uri: str, database: str) -> None:
    """A client that asks for what is not there, again and again, is held back by nothing."""
    async with served(mongodb_uri, database) as client:
        for _ in range(2 * Throttle.FREE // 50):
            found = await asyncio.gather(*(client.get_session("unknown") for _ in range(50)))

            assert {None} == set(found)


async def test_streams_outlast_an_overloaded_moment(mongodb_uri: str, database: str) -> None:
    """An event stream, an import, an export and a reader that find no room wait, and go on once there is some."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(watched(mongodb_uri, database, streams_max=1))
        client = server.client
        channel = await stack.enter_async_context(channel_to(client))
        batch_id = (await client.register_session(Session(session_id="s"))).session.batch_id
        holding = ClickstreamServiceStub(channel).GetBatchSessions(
            pb.GetBatchSessionsRequest(batch_id=batch_id, follow=True)
        )
        await holding.read()

        works = [
            asyncio.create_task(work)
            for work in (
                _sent(client),
                _imported(client),
                _exported(client),
                _read(client, batch_id),
            )
        ]
        await eventually(lambda: _all_refused(server, len(works)), "each of them is refused")
        assert not any(work.done() for work in works)
        holding.cancel()
        sent, imported, exported, read = await asyncio.gather(*works)

    assert (1, 1) == (sent, imported)
    assert exported >= 1
    assert read >= 1


async def _all_refused(server: Watched, methods: int) -> bool:
    """Whether calls of so many methods were refused."""
    name = "clickstream_rpc_requests_total"
    told = [sample for metric in await scrape(server.metrics) for sample in metric.samples if sample.name == name]
    return methods == len({one.labels["method"] for one in told if one.value and one.labels["reason"] == "OVERLOADED"})


async def _sent(client: ClickstreamClient) -> int:
    async with client.event_stream() as stream:
        await stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))
    return stream.totals.inserted


async def _imported(client: ClickstreamClient) -> int:
    async def chunks() -> AsyncIterator[Any]:
        yield ImportChunk(1, [item("imported", 1)])

    async with aclosing(client.import_sessions(ImportConfig(import_id="i"), chunks())) as answers:
        (summary,) = [answer async for answer in answers if isinstance(answer, ImportSummary)]
    return summary.sessions.inserted


async def _exported(client: ClickstreamClient) -> int:
    async with aclosing(client.export_sessions(ExportFilter())) as pages:
        return sum([len(page.sessions) async for page in pages])


async def _read(client: ClickstreamClient, batch_id: str) -> int:
    async with aclosing(client.get_batch_sessions(batch_id)) as sessions:
        return len([found async for found in sessions])
