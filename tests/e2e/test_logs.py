"""What the server's log says of calls, and what it never says."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
import pytest

from clickstream import ClickstreamClient, InvalidField, Session, SessionEvent
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream_server.call_record import CallRecord
from clickstream_server.observe.calls import LINES_PER_S_MAX, CallLog
from harness import ServerProcess, free_address

SECRET = "what-somebody-searched"


async def ended_with(process: ServerProcess) -> list[str]:
    """The lines on the standard error of a server that was stopped in order."""
    assert 0 == await process.stop()
    return process.errors.splitlines()


async def test_a_failed_call_has_one_line_with_the_id_that_its_caller_knows(mongodb_uri: str, database: str) -> None:
    """A call that failed has one line as JSON at level info: method, code, reason, duration, and the answer's id."""
    process = await ServerProcess.start(
        mongodb_uri=mongodb_uri, mongodb_database=database, log_format="json", log_level="info"
    )
    async with ClickstreamClient(process.address) as client:
        await client.register_session(Session(session_id="s", search_query=SECRET))
        with pytest.raises(InvalidField) as raised:
            await client.register_session(Session(session_id="x" * 300, search_query=SECRET))
    lines = [json.loads(line) for line in await ended_with(process)]
    failed = [line for line in lines if "method" in line]

    assert [raised.value.request_id] == [line["request_id"] for line in failed]
    assert "clickstream.v1.ClickstreamService/RegisterSession" == failed[0]["method"]
    assert ("INVALID_ARGUMENT", "INVALID_FIELD") == (failed[0]["code"], failed[0]["reason"])
    assert failed[0]["duration_s"] > 0
    assert "info" == failed[0]["level"]
    assert SECRET not in process.errors
    assert "x" * 200 not in process.errors


async def test_a_slow_call_has_a_line_though_it_succeeded(mongodb_uri: str, database: str) -> None:
    """By default a call that took longer than is set has a line, under its caller's id, with where the time went.

    Streams have none: they may last for hours.
    """
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, slow_call_s="0.0001")
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub: Any = ClickstreamServiceStub(channel)
        request = pb.RegisterSessionRequest(session=session_pb2.Session(session_id="s"))
        done = await stub.RegisterSession(request, metadata=[("x-request-id", "mine-1")])
        reading = stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=done.session.batch_id))
        assert [1] == [answer.last_number async for answer in reading]
    lines = await ended_with(process)

    assert 1 == len(lines)
    assert (
        " WARNING clickstream_server.calls: [mine-1] method=clickstream.v1.ClickstreamService/RegisterSession "
        in (lines[0])
    )
    assert " code=OK " in lines[0]
    spent_s = {name: float(value) for name, value in re.findall(r" (\w+)_s=(\S+)", lines[0])}
    assert {"duration", "queue", "validate", "database", "encode"} == set(spent_s)
    duration_s = spent_s.pop("duration")
    assert sum(spent_s.values()) > 0.99 * duration_s  # more, by what passed between: the stages are read after it
    assert spent_s["database"] > 0


def test_the_stage_that_a_call_ends_in_counts() -> None:
    """The time of a call that goes no further than to wait, as for a request that never comes, is told as that."""
    record = CallRecord(())
    until = record.began + 0.001
    while perf_counter() < until:
        pass

    assert 0.001 <= record.spent_s()["queue_s"]


async def test_by_default_calls_that_end_as_they_should_have_no_line(mongodb_uri: str, database: str) -> None:
    """Clients that ask for what is not there, leave a stream or a call, and an orderly stop fill no log."""
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, slow_call_s="60")
    async with ClickstreamClient(process.address) as client, grpc.aio.insecure_channel(process.address) as channel:
        done = await client.register_session(Session(session_id="s"))
        await client.get_session("unknown")
        stub: Any = ClickstreamServiceStub(channel)
        request = pb.GetBatchSessionsRequest(batch_id=done.session.batch_id, follow=True)
        left, stays = stub.GetBatchSessions(request), stub.GetBatchSessions(request)
        for call in (left, stays):
            await call.read()
        left.cancel()
        await client.list_batches()  # answered after the server has learned of that

        assert [] == await ended_with(process)
        assert grpc.StatusCode.UNAVAILABLE == await stays.code()


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_not_even_the_finest_level_tells_what_was_stored(mongodb_uri: str, database: str, driver: str) -> None:
    """At level debug every call has a line, and neither we nor the driver log a query, an id or a user."""
    process = await ServerProcess.start(
        mongodb_uri=mongodb_uri, mongodb_database=database, mongodb_driver=driver, log_level="debug"
    )
    async with ClickstreamClient(process.address) as client:
        await client.register_session(Session(session_id=f"id-{SECRET}", search_query=SECRET, user_id=f"u-{SECRET}"))
        await client.push_events([SessionEvent(event_id="e", session_id=f"id-{SECRET}", object_id=f"o-{SECRET}")])
        await client.get_session(f"id-{SECRET}")
    text = "\n".join(await ended_with(process))

    assert 3 == text.count(" code=OK ")
    assert SECRET not in text


async def test_requests_that_are_no_http_fill_no_log(mongodb_uri: str, database: str) -> None:
    """Whoever sends the metrics' port what is no HTTP is told so, and neither that nor what it held is in the log."""
    address = free_address()
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, metrics_listen=address)
    for broken in (f"GET /metrics HTTP/9.9\r\n{SECRET}", f"GET / HTTP/1.1\r\nA: {SECRET}\0", "A: " + "b" * 100_000):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(f"{broken}\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()

    assert [] == await ended_with(process)


def test_lines_are_bounded_and_what_is_left_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """When everything fails there are so many lines a second at most, and no call goes without being counted."""
    log = CallLog(slow_s=1.0)
    record = CallRecord(())
    record.reason = "OVERLOADED"
    with caplog.at_level(logging.WARNING):
        for _ in range(500):
            log.ended("/a.B/C", "RESOURCE_EXHAUSTED", 0.001, record, streams=False)
        log._second -= 1  # a second later
        log.ended("/a.B/C", "RESOURCE_EXHAUSTED", 0.001, record, streams=False)
    fields = [getattr(line, "fields", {}) for line in caplog.records]
    left_out = sum(found.get("left_out", 0) for found in fields)

    assert 501 == len(fields) + left_out
    assert len(fields) < 500
    assert LINES_PER_S_MAX < 500


def test_nothing_in_a_line_can_pass_for_another_line() -> None:
    """A line break in what is logged stays inside of its JSON object."""
    from clickstream_server.observe.logs import JsonFormatter, add_call

    line = logging.LogRecord("a", logging.INFO, "f", 1, "one\ntwo", None, None)

    assert add_call(line)
    assert "one\ntwo" == json.loads(JsonFormatter().format(line))["message"]
    assert "\n" not in JsonFormatter().format(line)
