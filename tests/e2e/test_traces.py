"""The traces that a real server sends, taken by a small collector that speaks OTLP."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from clickstream import ClickstreamClient, InvalidField, Session, SessionEvent, SyncClickstreamClient
from clickstream_server import app
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.observe import observing
from harness import PATIENCE_S, ServerProcess, eventually

SERVICE = "clickstream.v1.ClickstreamService"
SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.target = ""
        self.bytes = b""

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC names it
        self.bytes += request.SerializeToString()
        for sent in request.resource_spans:
            self.resources.append(attributes(sent.resource))
            self.spans += [span for scope in sent.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    async def until(self, name: str, count: int = 1) -> list[Span]:
        """Wait for so many spans of this name."""

        async def came() -> bool:
            return len(self.named(name)) >= count

        await eventually(came, f"{count} spans {name}; there are {[span.name for span in self.spans]}")
        return self.named(name)


def attributes(found: Any) -> dict[str, Any]:
    return {
        pair.key: pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
        for pair in found.attributes
    }


def children(collector: Collector, parent: Span) -> list[Span]:
    return [span for span in collector.spans if span.parent_span_id == parent.span_id]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)
    found.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield found
    await server.stop(0)


@pytest.fixture(params=["motor", "pymongo"])
async def server(
    request: pytest.FixtureRequest, collector: Collector, mongodb_uri: str, database: str
) -> ServerProcess:
    return await ServerProcess.start(
        mongodb_uri=mongodb_uri,
        mongodb_database=database,
        mongodb_driver=request.param,
        traces="otlp",
        log_level="info",
        log_format="json",
        environment={
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.target}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_SERVICE_NAME": "clicks-of-the-shop",
        },
    )


@pytest.fixture
def tracer() -> Iterator[trace.Tracer]:
    """The caller's own OpenTelemetry; what it makes goes nowhere."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("test")
    provider.shutdown()


async def test_a_call_continues_its_callers_trace(
    server: ServerProcess, collector: Collector, tracer: trace.Tracer
) -> None:
    """The span of a call is a child of the span around it in the client, and MongoDB's commands are children of it."""
    async with ClickstreamClient(server.address) as client:
        with tracer.start_as_current_span("search") as search:
            await client.register_session(Session(session_id="s", search_query="a-secret-query"))
            await client.push_events([SessionEvent(session_id="s", event_id="e", object_id="a-secret-object")])
    register = (await collector.until(f"{SERVICE}/RegisterSession"))[0]
    push = (await collector.until(f"{SERVICE}/PushEvents"))[0]
    insert = (await collector.until("insert events"))[0]
    group = (await collector.until("group commit"))[0]
    caller = search.get_span_context()

    for span in (register, push):
        assert (caller.trace_id, caller.span_id) == (
            int.from_bytes(span.trace_id),
            int.from_bytes(span.parent_span_id),
        )
        assert SERVER == span.kind
        assert ("grpc", SERVICE) == (attributes(span)["rpc.system"], attributes(span)["rpc.service"])
        assert 0 == attributes(span)["rpc.grpc.status_code"]
    assert push.span_id == insert.parent_span_id
    assert CLIENT == insert.kind
    assert "mongodb" == attributes(insert)["db.system.name"]
    assert ("events", "insert") == (attributes(insert)["db.collection.name"], attributes(insert)["db.operation.name"])
    assert push.start_time_unix_nano <= insert.start_time_unix_nano <= insert.end_time_unix_nano
    assert {"findAndModify batches", "insert sessions"} <= {span.name for span in children(collector, group)}
    assert register.span_id == group.parent_span_id
    assert "clicks-of-the-shop" == collector.resources[0]["service.name"]
    assert b"secret" not in collector.bytes, "what is searched and clicked is personal data"


async def test_a_group_is_linked_to_all_of_its_calls(
    server: ServerProcess, collector: Collector, tracer: trace.Tracer
) -> None:
    """Each call of a group is a link of the group's span, so that its commit is found from any of them."""
    count = 30
    async with ClickstreamClient(server.address) as client:

        async def register(n: int) -> None:
            with tracer.start_as_current_span(f"caller {n}"):
                await client.register_session(Session(session_id=f"s-{n}"))

        await asyncio.gather(*map(register, range(count)))
    calls = await collector.until(f"{SERVICE}/RegisterSession", count)
    assert 0 == await server.stop()
    groups = collector.named("group commit")

    linked = [link.span_id for group in groups for link in group.links]
    assert sorted(call.span_id for call in calls) == sorted(linked)
    assert count == sum(attributes(group)["clickstream.group_size"] for group in groups)
    assert len(groups) < count, "calls at the same time share a group"


async def test_an_error_is_told_with_its_reason(server: ServerProcess, collector: Collector) -> None:
    """A refused call's span has code, reason and request id; its line in the log has the trace's id."""
    async with ClickstreamClient(server.address) as client:
        with pytest.raises(InvalidField) as raised:
            await client.get_batch("")
    span = (await collector.until(f"{SERVICE}/GetBatch"))[0]
    assert 0 == await server.stop()
    lines = [json.loads(line) for line in server.errors.splitlines()]

    assert (3, "INVALID_FIELD") == (attributes(span)["rpc.grpc.status_code"], attributes(span)["clickstream.reason"])
    assert raised.value.request_id == attributes(span)["clickstream.request_id"]
    assert [span.trace_id.hex()] == [line["trace_id"] for line in lines if "method" in line]
    assert b"" == span.parent_span_id, "without a trace of its caller's it begins one"


async def test_a_stream_is_one_span(server: ServerProcess, collector: Collector, tracer: trace.Tracer) -> None:
    """A stream of any length is one span in its caller's trace, with a bounded number of commands below it."""
    async with ClickstreamClient(server.address) as client:
        with tracer.start_as_current_span("producer") as producer:
            async with client.event_stream(batch_events=1, unacked_events=1) as stream:
                for n in range(150):  # one after the other, so that each is a command of its own
                    await stream.send(SessionEvent(session_id="s", event_id=f"e-{n}", object_id="o"))
                    await stream.flush()
    name = "clickstream.v1.TransferService/StreamEvents"
    span = (await collector.until(name))[0]
    assert 0 == await server.stop()

    assert 1 == len(collector.named(name))
    assert producer.get_span_context().trace_id == int.from_bytes(span.trace_id)
    assert 100 == len(children(collector, span))


async def test_health_and_reflection_are_not_traced(server: ServerProcess, collector: Collector) -> None:
    """What probes ask all the time, and the server's own commands, make no spans."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
    async with ClickstreamClient(server.address) as client:
        await client.list_batches()
    await collector.until(f"{SERVICE}/ListBatches")
    assert 0 == await server.stop()

    assert {f"{SERVICE}/ListBatches", "find batches"} == {span.name for span in collector.spans}


async def test_the_client_without_async_continues_the_trace_too(
    server: ServerProcess, collector: Collector, tracer: trace.Tracer
) -> None:
    """The span that is current where the synchronous client is called is the parent."""

    def call() -> int:
        with tracer.start_as_current_span("script") as script, SyncClickstreamClient(server.address) as client:
            client.list_batches()
            return script.get_span_context().span_id

    span_id = await asyncio.to_thread(call)

    assert span_id == int.from_bytes((await collector.until(f"{SERVICE}/ListBatches"))[0].parent_span_id)


async def test_a_collector_that_is_away_does_no_harm(mongodb_uri: str, database: str) -> None:
    """Calls succeed while spans cannot be sent, and the server stops in order."""
    process = await ServerProcess.start(
        mongodb_uri=mongodb_uri,
        mongodb_database=database,
        traces="otlp",
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "50"},
    )
    async with ClickstreamClient(process.address) as client:
        for n in range(20):
            await client.register_session(Session(session_id=f"s-{n}"))

    assert 0 == await process.stop()


async def test_a_collector_that_hangs_does_not_hold_up_a_stop(mongodb_uri: str, database: str) -> None:
    """A server whose collector takes connections and never answers stops within seconds, whatever time it gives it."""
    with socket.create_server(("127.0.0.1", 0)) as collector:
        process = await ServerProcess.start(
            mongodb_uri=mongodb_uri,
            mongodb_database=database,
            traces="otlp",
            environment={
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
                "OTEL_BSP_SCHEDULE_DELAY": "50",
            },
        )
        async with ClickstreamClient(process.address) as client:
            await client.register_session(Session(session_id="s"))
        collector.settimeout(PATIENCE_S)
        connection, _ = await asyncio.to_thread(collector.accept)  # a span is on its way
        with connection:
            async with asyncio.timeout(15):
                assert 0 == await process.stop()


async def test_whoever_stops_at_once_waits_for_no_collector(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at once, a server does not wait for a collector that hangs, however long it would at an orderly stop."""
    monkeypatch.setattr(observing, "_STOP_S", 3600.0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with socket.create_server(("127.0.0.1", 0)) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.getsockname()[1]}")
        settings = Settings(
            listen="127.0.0.1:0", ui_listen="off", mongodb_uri=mongodb_uri, mongodb_database=database, traces="otlp"
        )
        serves: asyncio.Future[app.Running] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(app.until(asyncio.Event(), settings, serves.set_result))
        async with ClickstreamClient((await serves).address) as client:
            await client.register_session(Session(session_id="s"))
        collector.settimeout(PATIENCE_S)
        connection, _ = await asyncio.to_thread(collector.accept)  # a span is on its way
        with connection:
            serving.cancel()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([serving])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
async def test_what_cannot_be_followed_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    """A variable of OpenTelemetry that cannot be followed ends the start with a line, before a database is started."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StartFailure, match=rf"OTEL_.*{value}"):
        async with app.running(Settings(traces="otlp", listen="127.0.0.1:0", ui_listen="off", data_dir=tmp_path)):
            pass

    assert [] == list(tmp_path.iterdir())  # noqa: ASYNC240  # an empty folder


def test_no_span_no_metadata() -> None:
    """A call outside of any span carries nothing of a trace."""
    from clickstream.tracing import trace_options

    assert {} == trace_options()


def test_a_call_may_come_while_opentelemetry_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is about to import it, and its module is there, still empty: there is no trace yet."""
    from clickstream.tracing import trace_options

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))

    assert {} == trace_options()
