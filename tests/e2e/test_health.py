"""Health for whoever starts, balances and restarts servers: what it says when, and on which port."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient, Session
from clickstream.errors import ClickstreamError
from clickstream_server.app import SERVICES
from clickstream_server.failures import StartFailure
from clickstream_server.health import LIVENESS
from clickstream_server.interceptors.call import HEALTH_BYTES_MAX
from harness import (
    NOT_SERVING,
    SERVING,
    eventually,
    free_address,
    health_of,
    run_program,
    running,
    served,
    start_program,
    until_health,
)

DEADLINE_S = 20.0


async def test_the_health_port_answers_health_and_nothing_else(mongodb_uri: str, database: str) -> None:
    """Both ports know the same names, and the services are not to be had on the one for health."""
    health = free_address()
    async with served(mongodb_uri, database, health_listen=health) as client, ClickstreamClient(health) as wrong:
        names = ["", LIVENESS, *SERVICES]
        assert [SERVING] * len(names) * 2 == [
            await health_of(at, name) for at in (client.target, health) for name in names
        ]

        with pytest.raises(ClickstreamError) as raised:
            await wrong.list_batches()

    assert grpc.StatusCode.UNIMPLEMENTED == raised.value.code


async def test_a_request_to_health_is_a_name(mongodb_uri: str, database: str) -> None:
    """A request of more than a KiB is refused on both ports, whether it checks or watches."""
    health = free_address()
    async with served(mongodb_uri, database, health_listen=health) as client:
        for address in (client.target, health):
            async with grpc.aio.insecure_channel(address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                long = health_pb2.HealthCheckRequest(service="s" * 2 * HEALTH_BYTES_MAX)
                for call in (stub.Check(long, timeout=DEADLINE_S), aiter(stub.Watch(long, timeout=DEADLINE_S))):
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await (anext(call) if hasattr(call, "__anext__") else call)
                    assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()


async def test_a_server_that_drains_lives(mongodb_uri: str, database: str) -> None:
    """While the last calls run, nothing more is to be sent to the server, and nobody is to restart it."""
    health = free_address()
    async with AsyncExitStack() as serving, AsyncExitStack() as stack:
        settings = {"health_listen": health, "drain_s": DEADLINE_S}
        server = await serving.enter_async_context(running(mongodb_uri, database, **settings))
        mongo = await stack.enter_async_context(AsyncMongoClient(mongodb_uri))
        client = await stack.enter_async_context(ClickstreamClient(server.address, deadline_s=DEADLINE_S))
        await mongo.admin.command("fsync", 1, lock=True)  # writes wait
        try:
            registering = asyncio.create_task(client.register_session(Session(session_id="s")))
            await eventually(lambda: _waits(mongo), "the session waits for its number")
            stopping = asyncio.create_task(serving.aclose())
            await until_health(health, NOT_SERVING)

            assert [NOT_SERVING, NOT_SERVING, SERVING] == [
                await health_of(health, name) for name in (*SERVICES, LIVENESS)
            ]
            assert not registering.done()
        finally:
            await mongo.admin.command("fsyncUnlock")
        await stopping

        assert 1 == (await registering).session.session_number


async def _waits(mongo: AsyncMongoClient) -> bool:
    cursor = await mongo.admin.aggregate([{"$currentOp": {}}, {"$match": {"waitingForLock": True}}])
    return bool(await cursor.to_list())


async def test_a_server_that_waits_for_its_database_lives() -> None:
    """Who starts before MongoDB does is not sent calls, and not restarted over and over either."""
    health = free_address()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: nobody else can take it
        uri = f"mongodb://127.0.0.1:{nobody.getsockname()[1]}/"
        process = await start_program(
            "serve", "--listen=127.0.0.1:0", f"--health-listen={health}", f"--mongodb-uri={uri}"
        )
        try:
            await until_health(health, SERVING, LIVENESS)

            assert [SERVING, NOT_SERVING] == [await health_of(health, name) for name in (LIVENESS, "")]
            lives = await run_program("ping", f"--target={health}", f"--service={LIVENESS}")
            assert (0, f"{LIVENESS} at {health} is SERVING\n", "") == lives
            assert (1, f"{health} is NOT_SERVING\n", "") == await run_program("ping", f"--target={health}")
            assert process.returncode is None
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_ping_says_what_there_is_not(mongodb_uri: str, database: str) -> None:
    """A name that the server's health does not have is told as such, and not as a server that is away."""
    async with served(mongodb_uri, database) as client:
        found = await run_program("ping", f"--target={client.target}", "--service=other")

    assert (1, "", f"clickstream: {client.target} has no health under the name other\n") == found


@pytest.mark.parametrize(
    ("argument", "told"),
    [("--service=\udcff", "argument --service: must be valid Unicode"), ("--target=\udcff:1", "the target must be")],
)
async def test_ping_refuses_what_is_no_text(argument: str, told: str) -> None:
    """An argument that is not UTF-8 ends in a line that says so."""
    code, _, errors = await run_program("ping", argument)

    assert code
    assert told in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e10", "0", "-1", "soon"])
async def test_ping_waits_for_a_time_that_there_is(seconds: str) -> None:
    """What gRPC would take for no time at all is refused; it is not said that nobody serves."""
    code, _, errors = await run_program("ping", f"--timeout-s={seconds}", "--target=127.0.0.1:1")

    assert 2 == code
    assert "must be a number of seconds, more than 0" in errors


async def test_an_empty_variable_is_none() -> None:
    """A CLICKSTREAM_TARGET without anything in it, as compose files leave it, is as good as unset."""
    code, told, _ = await run_program("ping", "--help", CLICKSTREAM_TARGET="")

    assert 0 == code
    assert "default 127.0.0.1:50051" in " ".join(told.split())


async def test_a_health_port_that_is_taken_keeps_the_server_from_starting(mongodb_uri: str, database: str) -> None:
    """Probes that ask another program would restart this one for nothing, so it says so and stops."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"

        with pytest.raises(
            StartFailure, match=f"cannot listen on {taken}: the port is in use .CLICKSTREAM_HEALTH_LISTEN sets another"
        ):
            async with served(mongodb_uri, database, health_listen=taken):
                pass
