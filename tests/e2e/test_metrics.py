"""What Prometheus is told, by a real server on a real database."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from clickstream import (
    ClickstreamClient,
    EventBatch,
    ExportFilter,
    ImportChunk,
    ImportConfig,
    ImportItem,
    InvalidField,
    MissingCredentials,
    Session,
    SessionEvent,
    Unavailable,
)
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream_server import app
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from harness import ServerProcess, eventually, freeze, mongod_pid
from scraping import Watched, scrape, watched

SERVICE = "clickstream.v1.ClickstreamService"
TRANSFER = "clickstream.v1.TransferService"
ENDED = "clickstream_rpc_requests_total"


@pytest.fixture(params=["motor", "pymongo"])
async def server(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> Any:
    async with watched(mongodb_uri, database, mongodb_driver=request.param) as server:
        yield server


@pytest.fixture
async def channel(server: Watched) -> Any:
    async with grpc.aio.insecure_channel(server.client.target) as channel:
        yield channel


def event(n: int, object_id: str = "o") -> SessionEvent:
    return SessionEvent(session_id="s", event_id=f"e-{n}", object_id=object_id)


# --- calls ----------------------------------------------------------------------------------------------------------


async def test_every_call_is_counted_by_what_became_of_it(server: Watched, channel: grpc.aio.Channel) -> None:
    """A call counts once, under its method, status and reason, whichever part of the server ended it."""
    await server.client.register_session(Session(session_id="s"))
    await server.client.get_session("unknown")
    with pytest.raises(InvalidField):
        await server.client.get_batch("")
    for method, request in (("GetBatch", b"\xff"), ("Nothing", b""), ("Nothing2", b"")):
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/{SERVICE}/{method}")(request)

    await server.until(1, ENDED, method=f"{SERVICE}/RegisterSession", code="OK", reason="")
    await server.until(1, ENDED, method=f"{SERVICE}/GetSession", code="NOT_FOUND", reason="SESSION_NOT_FOUND")
    await server.until(2, ENDED, method=f"{SERVICE}/GetBatch", code="INVALID_ARGUMENT", reason="INVALID_FIELD")
    await server.until(2, ENDED, method="other", code="UNIMPLEMENTED")
    await server.until(6, ENDED)
    count = "clickstream_rpc_duration_seconds_count"
    await server.until(1, count, method=f"{SERVICE}/RegisterSession", result="ok")
    await server.until(2, count, method=f"{SERVICE}/GetBatch", result="error")


async def test_a_call_that_its_caller_ends_is_counted_as_that(
    server: Watched, channel: grpc.aio.Channel, mongodb_uri: str, database: str
) -> None:
    """A stream that is left counts without a reason, as CANCELLED while it had time; then none is in flight."""
    done = await server.client.register_session(Session(session_id="s"))
    stub: Any = ClickstreamServiceStub(channel)
    request = pb.GetBatchSessionsRequest(batch_id=done.session.batch_id, follow=True)
    method = f"{SERVICE}/GetBatchSessions"
    cancelled = stub.GetBatchSessions(request)
    await cancelled.read()
    await server.until(1, "clickstream_rpc_in_flight", method=method)
    await server.until(1, "clickstream_followers")
    cancelled.cancel()
    await server.until(1, ENDED, method=method, code="CANCELLED")
    late = stub.GetBatchSessions(request, timeout=2)
    assert grpc.StatusCode.DEADLINE_EXCEEDED == await late.code()

    # As the server sees it: where the way took long, the client seems to have left before its time was over.
    await server.until(2, ENDED, method=method, reason="")
    await server.until(0, "clickstream_rpc_in_flight")
    await server.until(0, "clickstream_followers")


async def test_what_streams_carry_is_counted(server: Watched) -> None:
    """Messages in and out and sessions out count by method."""
    sessions = [ImportItem(Session(session_id=f"s-{n}")) for n in range(5)]
    chunks = [ImportChunk(sequence=n + 1, items=[item]) for n, item in enumerate(sessions)]

    async def source() -> Any:
        for chunk in chunks:
            yield chunk

    _ = [answer async for answer in server.client.import_sessions(ImportConfig(import_id="i"), source())]
    batch = (await server.client.list_batches()).batches[0]
    _ = [page async for page in server.client.get_batch_pages(batch.batch_id)]
    _ = [page async for page in server.client.export_sessions(ExportFilter(batch_id=batch.batch_id))]

    method = f"{TRANSFER}/ImportSessions"
    await server.until(6, "clickstream_stream_messages_received_total", method=method)
    await server.until(6, "clickstream_stream_messages_sent_total", method=method)
    for method in (f"{SERVICE}/GetBatchSessions", f"{TRANSFER}/ExportSessions"):
        await server.until(1, "clickstream_stream_messages_sent_total", method=method)
        await server.until(5, "clickstream_stream_sessions_sent_total", method=method)


# --- what is stored -------------------------------------------------------------------------------------------------


async def test_every_session_and_event_is_counted_by_what_became_of_it(server: Watched) -> None:
    """Writes count by kind, way and outcome; a dry run stores nothing and counts nothing."""
    client = server.client
    for query in ("lamp", "lamp", "desk"):
        await client.register_session(Session(session_id="s", search_query=query))
    await client.update_session(Session(session_id="s", search_query="desk"))
    await client.push_events([event(1), event(2), event(1, "other"), event(3, "")])

    async def batches() -> Any:
        yield EventBatch(1, [event(1), event(4)])

    async def chunks() -> Any:
        yield ImportChunk(1, [ImportItem(Session(session_id="s", search_query="bed"), [event(5)])])

    _ = [ack async for ack in client.stream_events(batches())]
    for dry in (True, False):
        _ = [found async for found in client.import_sessions(ImportConfig(import_id="i", dry_run=dry), chunks())]

    found = {
        (sample.labels["kind"], sample.labels["way"], sample.labels["outcome"]): sample.value
        for metric in await scrape(server.metrics)
        for sample in metric.samples
        if sample.name == "clickstream_writes_total" and sample.value
    }
    assert {
        ("session", "register", "inserted"): 1,
        ("session", "register", "duplicate"): 1,
        ("session", "register", "conflict"): 1,
        ("session", "update", "inserted"): 1,
        ("event", "push", "inserted"): 2,
        ("event", "push", "conflict"): 1,
        ("event", "push", "rejected"): 1,
        ("event", "stream", "duplicate"): 1,
        ("event", "stream", "inserted"): 1,
        ("session", "import", "conflict"): 1,
        ("event", "import", "inserted"): 1,
    } == found


async def test_groups_are_counted_with_their_sizes(server: Watched) -> None:
    """The sizes of the groups add up to the sessions that were registered, and each group has its time."""
    await asyncio.gather(*(server.client.register_session(Session(session_id=f"s-{n}")) for n in range(50)))

    await server.until(50, "clickstream_group_commit_sessions_sum")
    groups = await server.sum("clickstream_group_commit_sessions_count")
    assert groups < 50, "calls at the same time share a group"
    assert groups == await server.sum("clickstream_group_commit_duration_seconds_count")
    assert groups <= await server.sum("clickstream_mongodb_command_duration_seconds_count", command="commitTransaction")


async def test_a_follower_that_does_not_read_is_behind(server: Watched, channel: grpc.aio.Channel) -> None:
    """While its client takes nothing, a follower has a lag in numbers and seconds; once it has read, there is none."""
    large = "x" * 200_000
    done = await server.client.register_session(Session(session_id="s", search_query=large))
    stub: Any = ClickstreamServiceStub(channel)
    call = stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=done.session.batch_id, follow=True))
    await call.read()
    for n in range(60):  # far more than the connection's windows hold
        await server.client.register_session(Session(session_id=f"s-{n}", search_query=large))

    async def behind() -> bool:
        numbers = await server.sum("clickstream_follower_lag_sessions")
        return numbers > 0 and await server.sum("clickstream_follower_lag_seconds") > 0

    await eventually(behind, "it is behind")
    last = 0
    while last < 61:
        last = (await call.read()).last_number
    await server.until(0, "clickstream_follower_lag_sessions")
    await server.until(0, "clickstream_follower_lag_seconds")
    call.cancel()


# --- refusals -------------------------------------------------------------------------------------------------------


async def test_calls_without_a_token_are_counted(mongodb_uri: str, database: str, tmp_path: Path) -> None:
    """A call that is not let in counts with the reason, and as a call with its method."""
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    async with watched(mongodb_uri, database, tokens_file=tokens) as server:
        with pytest.raises(MissingCredentials):
            await server.client.list_batches()

        await server.until(1, "clickstream_auth_refusals_total", caller="", reason="MISSING_CREDENTIALS")
        await server.until(1, ENDED, method=f"{SERVICE}/ListBatches", reason="MISSING_CREDENTIALS")


async def test_what_there_was_too_much_of_is_counted(mongodb_uri: str, database: str) -> None:
    """A call that the limiter refuses counts with what there was too much of, and as a call with its method."""
    async with watched(mongodb_uri, database, streams_max=1) as server:
        await server.client.register_session(Session(session_id="s"))
        async with grpc.aio.insecure_channel(server.client.target) as channel:
            stub: Any = ClickstreamServiceStub(channel)
            request = pb.GetBatchSessionsRequest(follow=True)
            first = stub.GetBatchSessions(request)
            await first.read()
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetBatchSessions(request).read()

            await server.until(1, "clickstream_limiter_refusals_total", limit="streams")
            await server.until(1, ENDED, method=f"{SERVICE}/GetBatchSessions", reason="OVERLOADED")
            first.cancel()


# --- the database ---------------------------------------------------------------------------------------------------


async def test_the_pool_is_told(server: Watched) -> None:
    """Connections that are open count, and when nothing runs, none waits; what was created is at least what is open."""
    await server.client.register_session(Session(session_id="s"))

    assert 1 <= await server.sum("clickstream_mongodb_pool_connections")
    assert await server.sum("clickstream_mongodb_pool_connections") <= await server.sum(
        "clickstream_mongodb_pool_created_total"
    )
    await server.until(0, "clickstream_mongodb_pool_waiting")
    assert 0 < await server.sum("clickstream_mongodb_pool_wait_seconds_count")


async def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    """While the database hangs, health is 0 and calls count as UNAVAILABLE; afterwards health is 1 again."""
    process = await ServerProcess.start(
        data_dir=tmp_path, metrics_listen="127.0.0.1:0", storage_timeout_s="1", mongodb_driver="pymongo"
    )
    async with ClickstreamClient(process.address, deadline_s=20) as client:
        server = Watched(client, next(line.split()[1] for line in process.output if line.startswith("metrics:")))
        await server.until(1, "clickstream_health_serving")
        await freeze(mongod_pid(tmp_path))
        try:
            await server.until(0, "clickstream_health_serving")
            with pytest.raises(Unavailable):
                await client.get_batch("b")
            code = await server.sum(
                ENDED, method=f"{SERVICE}/GetBatch", code="UNAVAILABLE", reason="STORAGE_UNAVAILABLE"
            )
            assert 1 <= code
        finally:
            os.kill(mongod_pid(tmp_path), signal.SIGCONT)
        await server.until(1, "clickstream_health_serving")
        await server.until(0, "clickstream_mongodb_pool_waiting")
    assert 0 == await process.stop()


# --- the endpoint ---------------------------------------------------------------------------------------------------


async def test_only_metrics_are_served(server: Watched) -> None:
    """Any other path or method is refused, and OpenMetrics comes to those who ask for it."""
    root = server.metrics.removesuffix("metrics")
    async with aiohttp.ClientSession() as http:
        for method, path, expected in (("GET", "", 404), ("GET", "api", 404), ("POST", "metrics", 405)):
            async with http.request(method, root + path) as answer:
                assert expected == answer.status
        headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with http.get(server.metrics, headers=headers) as answer:
            assert "application/openmetrics-text" in answer.headers["Content-Type"]
            assert (await answer.text()).endswith("# EOF\n")


async def test_metrics_hold_nothing_of_what_is_stored(server: Watched) -> None:
    """Neither ids nor queries, nor names of methods that callers make up, are told."""
    session = Session(session_id="secret-session", search_query="secret query", user_id="secret-user")
    await server.client.register_session(session)
    await server.client.get_session("secret-unknown")
    async with grpc.aio.insecure_channel(server.client.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/secret.Service/Secret")(b"")
    async with aiohttp.ClientSession() as http, http.get(server.metrics) as answer:
        assert "secret" not in (await answer.text()).lower()


async def test_a_port_in_use_keeps_the_server_from_starting(server: Watched, mongodb_uri: str) -> None:
    """An address for metrics that cannot be had is a clear error, not a server without metrics."""
    taken = server.metrics.removeprefix("http://").removesuffix("/metrics")
    settings = Settings(listen="127.0.0.1:0", mongodb_uri=mongodb_uri, ui_listen="off", metrics_listen=taken)
    with pytest.raises(StartFailure, match="CLICKSTREAM_METRICS_LISTEN"):
        async with app.running(settings):
            pass


async def test_without_the_setting_nothing_is_counted(mongodb_uri: str, database: str) -> None:
    """By default there is no port for metrics, and the database's driver reports to nobody."""
    settings = Settings(listen="127.0.0.1:0", mongodb_uri=mongodb_uri, mongodb_database=database, ui_listen="off")
    async with app.running(settings) as running:
        assert "" == running.metrics
