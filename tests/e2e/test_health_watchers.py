"""Those who watch health: each hears of every change, and nobody holds up the server or the others."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from struct import pack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    connected,
    frame,
    headers,
    next_frame,
    setting,
)

from clickstream.errors import StorageUnavailable
from clickstream_server import app, health_servicer
from clickstream_server.app import SERVICES
from clickstream_server.config import Settings
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.health import HealthMonitor, health_served
from harness import NOT_SERVING, PATIENCE_S, SERVING, eventually, free_address, until_health

SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
LONG_S = 3600.0
"""So long may calls take that run: a stop that waits for that is never seen to end."""


async def watch_and_take_nothing(address: str, stack: AsyncExitStack) -> None:
    """Watch health over a connection that has no room for an answer; return once the server tries to send one."""
    reader, writer = await connected(address)
    stack.callback(writer.close)
    writer.write(PREFACE + setting(INITIAL_WINDOW_SIZE, 0))
    writer.write(frame(HEADERS, END_HEADERS, 1, headers("/grpc.health.v1.Health/Watch")))
    writer.write(frame(DATA, END_STREAM, 1, b"\x00" + pack(">I", 0)))
    async with asyncio.timeout(PATIENCE_S):
        while (await next_frame(reader))[0] != HEADERS:
            pass


@pytest.mark.parametrize("port", ["main", "health"])
async def test_a_watcher_that_takes_nothing_holds_up_nobody(tmp_path: Path, port: str) -> None:
    """With a watcher that takes no answer a server starts, follows its database, and stops long before its calls."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    await mongo.stop()
    addresses = {"main": free_address(), "health": free_address()}
    settings = Settings(
        listen=addresses["main"], ui_listen="off", health_listen=addresses["health"], mongodb_uri=uri, drain_s=LONG_S
    )
    async with AsyncExitStack() as stack, asyncio.timeout(4 * PATIENCE_S):
        stack.push_async_callback(mongo.stop)
        serving = await stack.enter_async_context(AsyncExitStack())
        starting = asyncio.create_task(serving.enter_async_context(app.running(settings)))
        await until_health(addresses[port], NOT_SERVING)
        await watch_and_take_nothing(addresses[port], stack)
        assert uri == await mongo.start()
        async with asyncio.timeout(PATIENCE_S):
            await starting
        await until_health(addresses[port], SERVING)
        await mongo.stop()
        await until_health(addresses[port], NOT_SERVING)
        gc.disable()  # in a server nothing may call it for long
        try:
            async with asyncio.timeout(PATIENCE_S):
                await serving.aclose()
        finally:
            gc.enable()


class Database:
    """What a monitor asks; it is away while `away` is set."""

    def __init__(self) -> None:
        self.away = False

    async def ping(self, _: float) -> None:
        if self.away:
            raise StorageUnavailable("away")


async def told(call: Any) -> int:
    """What a watcher hears next."""
    async with asyncio.timeout(PATIENCE_S):
        answer = await call.read()
    assert answer is not grpc.aio.EOF
    return answer.status


async def test_watchers_hear_of_changes_after_one_has_left() -> None:
    """Whoever watches hears of each change, also when another who watched the same name has left."""
    database, address = Database(), free_address()
    monitor = HealthMonitor(database.ping, SERVICES)
    monitor.begin()
    async with (
        health_served(address, monitor.servicer),
        grpc.aio.insecure_channel(address) as channel,
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        watcher, leaver = (
            health_pb2_grpc.HealthStub(each).Watch(health_pb2.HealthCheckRequest()) for each in (channel, other)
        )
        assert [NOT_SERVING] * 2 == [await told(watcher), await told(leaver)]
        leaver.cancel()
        with suppress(asyncio.CancelledError):
            await leaver.read()
        await health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest())  # it came behind that
        await monitor.start()
        assert SERVING == await told(watcher)
        database.away = True
        assert NOT_SERVING == await told(watcher)
        watcher.cancel()
        await monitor.stop()


async def test_there_is_room_for_so_many_watchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes past the bound is told so, and may ask; once one has left, there is room for one more."""
    monkeypatch.setattr(health_servicer, "WATCHERS_MAX", 2)
    address = free_address()
    monitor = HealthMonitor(Database().ping, SERVICES)
    monitor.begin()
    async with health_served(address, monitor.servicer), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watchers = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        assert [NOT_SERVING] * 2 == [await told(watcher) for watcher in watchers]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await told(stub.Watch(health_pb2.HealthCheckRequest()))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()
        assert NOT_SERVING == (await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)).status
        watchers.pop().cancel()

        async def has_room() -> bool:
            call = stub.Watch(health_pb2.HealthCheckRequest())
            with suppress(grpc.aio.AioRpcError):
                return NOT_SERVING == await told(call)
            return False

        await eventually(has_room, "there is room for another one")
        watchers.pop().cancel()


async def test_an_unknown_name_may_be_watched_but_not_checked() -> None:
    """For a name that there is not Watch says SERVICE_UNKNOWN and goes on, and Check ends with NOT_FOUND."""
    address = free_address()
    monitor = HealthMonitor(Database().ping, SERVICES)
    async with health_served(address, monitor.servicer), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        early = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
        assert SERVICE_UNKNOWN == await told(early)
        monitor.begin()
        assert NOT_SERVING == await told(early)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=PATIENCE_S)
        early.cancel()

    assert grpc.StatusCode.NOT_FOUND == raised.value.code()


async def test_a_watcher_that_comes_back_holds_up_no_stop(mongodb_uri: str, database: str) -> None:
    """Watchers hear NOT_SERVING, then UNAVAILABLE at the stop; who watches again at once is refused, not waited for."""
    settings = Settings(
        listen="127.0.0.1:0", ui_listen="off", mongodb_uri=mongodb_uri, mongodb_database=database, drain_s=LONG_S
    )
    heard: list[int | grpc.StatusCode] = []
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(AsyncExitStack())
        running = await serving.enter_async_context(app.running(settings))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(running.address))

        async def watch_again_and_again() -> None:
            while True:
                try:
                    async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                        heard.append(answer.status)
                except grpc.aio.AioRpcError as error:
                    heard.append(error.code())

        watching = asyncio.create_task(watch_again_and_again())
        stack.callback(watching.cancel)

        async def something_was_heard() -> bool:
            return bool(heard)

        await eventually(something_was_heard, "the watcher hears that the server serves")
        async with asyncio.timeout(PATIENCE_S):
            await serving.aclose()
        watching.cancel()

    assert [SERVING, NOT_SERVING, grpc.StatusCode.UNAVAILABLE] == heard[:3]
    # The second is what gRPC itself says while it stops.
    assert set(heard[3:]) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
