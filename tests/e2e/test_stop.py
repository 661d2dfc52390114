"""A server stops: calls that run are finished, and nobody holds it up."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import grpc
import grpc.aio
import pytest

from clickstream import ClickstreamClient, Session, ShuttingDown, Unavailable
from clickstream.call_errors import failure_of
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream_server import app, listening
from clickstream_server.config import Settings
from clickstream_server.embedded import EmbeddedMongo
from harness import PATIENCE_S, eventually, freeze, group_commit_runs, mongod_pid

READER = """
import sys, threading, grpc
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
address, batch_id, follow = sys.argv[1:]
request = pb.GetBatchSessionsRequest(batch_id=batch_id, follow=bool(follow))
call = ClickstreamServiceStub(grpc.insecure_channel(address)).GetBatchSessions(request, timeout=1000)
print(next(call).sessions[0].session_number, flush=True)
if sys.stdin.readline() == "cancel\\n":
    call.cancel()
threading.Event().wait()
"""
"""A client that reads one answer and then no more."""

LONG_S = 3600.0
"""So long may calls take that run: a stop that waits for that is never seen to end."""


def settings(uri: str, database: str, drain_s: float) -> Settings:
    return Settings(listen="127.0.0.1:0", ui_listen="off", mongodb_uri=uri, mongodb_database=database, drain_s=drain_s)


async def fill(address: str) -> str:
    """Register 24 MB of sessions, more than any buffer takes; return their batch."""
    async with ClickstreamClient(address) as client:
        for start in range(0, 1200, 50):  # at a time: so many are no overload, however slow the machine is
            sessions = [Session(session_id=str(start + n), search_query="x" * 20_000) for n in range(50)]
            done = await asyncio.gather(*map(client.register_session, sessions))
    return done[0].session.batch_id


@pytest.fixture
async def readers() -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Processes that are ended after the test."""
    found: list[asyncio.subprocess.Process] = []
    yield found
    for process in found:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("how", ["killed", "cancelled", "hanging", "not reading"])
async def test_a_stop_does_not_wait_for_readers(
    mongodb_uri: str,
    database: str,
    readers: list[asyncio.subprocess.Process],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop ends long before the time for running calls, whatever became of those who were reading, or followed."""
    # Else gRPC itself gives up a connection that stands still after 20 seconds, and the stop would end then.
    patient = [*listening._OPTIONS, ("grpc.keepalive_timeout_ms", 3_600_000)]
    monkeypatch.setattr(listening, "_OPTIONS", patient)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(app.running(settings(mongodb_uri, database, LONG_S)))
        batch_id = await fill(running.address)
        for follow in ("", "follow") * 3:
            arguments = ("-c", READER, running.address, batch_id, follow)
            pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
            readers.append(await asyncio.create_subprocess_exec(sys.executable, *arguments, **pipes))
        for reader in readers:
            assert b"1\n" == await reader.stdout.readline()
            if how == "killed":
                reader.kill()
            elif how == "cancelled":
                reader.stdin.write(b"cancel\n")
            elif how == "hanging":
                reader.send_signal(signal.SIGSTOP)
        gc.disable()  # in a server nothing may call it for long
        try:
            async with asyncio.timeout(PATIENCE_S):
                await stack.aclose()
        finally:
            gc.enable()


async def test_a_stop_does_not_wait_for_a_request_that_never_comes(mongodb_uri: str, database: str) -> None:
    """With an hour to drain, a call that was opened and sends no request is ended, with an error that says so."""
    chosen = settings(mongodb_uri, database, LONG_S).model_copy(update={"calls_max": 1})
    async with AsyncExitStack() as stack, asyncio.timeout(2 * PATIENCE_S):
        server = await stack.enter_async_context(AsyncExitStack())
        running = await server.enter_async_context(app.running(chosen))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(running.address))
        silent = channel.stream_unary("/clickstream.v1.ClickstreamService/GetBatch")()
        await silent.wait_for_connection()  # so that it comes first

        async def it_is_there() -> bool:
            try:
                await channel.unary_unary("/clickstream.v1.ClickstreamService/ListBatches")(b"")
            except grpc.aio.AioRpcError:
                return True
            return False

        await eventually(it_is_there, "the silent call is the only one")
        await server.aclose()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await silent
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()


async def test_a_stop_waits_for_calls_that_run(tmp_path: Path) -> None:
    """A call that runs when a stop is asked for is finished and answered, though it takes seconds, unlike new ones."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    frozen = mongod_pid(tmp_path)
    async with AsyncExitStack() as stack, asyncio.timeout(2 * PATIENCE_S):
        stack.push_async_callback(mongo.stop)
        server = await stack.enter_async_context(AsyncExitStack())
        running = await server.enter_async_context(app.running(settings(uri, "stop", LONG_S)))
        client = await stack.enter_async_context(ClickstreamClient(running.address, deadline_s=PATIENCE_S))
        await client.list_batches()
        await freeze(frozen)
        stack.callback(os.kill, frozen, signal.SIGCONT)
        registering = asyncio.create_task(client.register_session(Session(session_id="s")))
        await eventually(group_commit_runs, "the registration is under way")
        stopping = asyncio.create_task(server.aclose())
        thaw_at = monotonic() + app._LAST_ANSWERS_S + 1.0

        async def time_for_last_answers_is_over() -> bool:
            return monotonic() > thaw_at

        await eventually(time_for_last_answers_is_over, "the time for last answers is over")
        with pytest.raises(Unavailable):
            await client.list_batches()
        os.kill(frozen, signal.SIGCONT)

        assert 1 == (await registering).session.session_number
        await stopping


async def test_a_stream_that_has_just_begun_ends_with_a_reason(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that comes while a stream's first answer is on its way ends the stream with SHUTTING_DOWN all the same."""
    monkeypatch.setattr(app, "_LAST_ANSWERS_S", PATIENCE_S)  # time enough to take what is left
    async with AsyncExitStack() as stack, asyncio.timeout(2 * PATIENCE_S):
        server = await stack.enter_async_context(AsyncExitStack())
        running = await server.enter_async_context(app.running(settings(mongodb_uri, database, LONG_S)))
        options = [("grpc.http2.bdp_probe", 0)]  # else the window grows by itself
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(running.address, options=options))
        stub = ClickstreamServiceStub(channel)
        large = pb.RegisterSessionRequest(session={"session_id": "s", "search_query": {"string_value": "x" * 900_000}})
        batch_id = (await stub.RegisterSession(large)).session.batch_id
        reading = stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=batch_id))
        await reading.initial_metadata()  # the answer behind it is larger than what it may send to who does not read
        stopping = asyncio.create_task(server.aclose())

        async def drains() -> bool:
            try:
                await channel.unary_unary("/clickstream.v1.ClickstreamService/ListBatches")(b"")
            except grpc.aio.AioRpcError as error:
                return isinstance(failure_of(error), ShuttingDown)
            return False

        await eventually(drains, "it drains")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            while await reading.read() is not grpc.aio.EOF:
                pass
        await stopping

    assert isinstance(failure_of(raised.value), ShuttingDown), raised.value


async def test_what_a_stop_cuts_off_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Calls that run on when the time to drain is over end with SHUTTING_DOWN, and the log says how many."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    frozen = mongod_pid(tmp_path)
    async with AsyncExitStack() as stack, asyncio.timeout(2 * PATIENCE_S):
        stack.push_async_callback(mongo.stop)
        stack.callback(os.kill, frozen, signal.SIGCONT)
        server = await stack.enter_async_context(AsyncExitStack())
        running = await server.enter_async_context(app.running(settings(uri, "stop", 0.5)))
        options = [("grpc.enable_retries", 0)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(running.address, options=options))
        stub = ClickstreamServiceStub(channel)
        await stub.ListBatches(pb.ListBatchesRequest())
        await freeze(frozen)
        registering = stub.RegisterSession(pb.RegisterSessionRequest(session={"session_id": "s"}), timeout=LONG_S)
        await eventually(group_commit_runs, "the registration is under way")
        await server.aclose()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await registering

    assert isinstance(failure_of(raised.value), ShuttingDown), raised.value
    (said,) = [record for record in caplog.records if record.name == app.__name__]
    assert ("WARNING", "cut off by the stop after 0.5 s: calls=1 streams=0") == (
        said.levelname,
        said.getMessage(),
    )
