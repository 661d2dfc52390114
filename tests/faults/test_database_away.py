"""MongoDB goes away under a running server, and comes back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_calls import METHODS, needing_the_database

from clickstream import ClickstreamClient, ClickstreamError, Session, SessionEvent, StorageUnavailable
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceStub
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.health import LIVENESS
from harness import PATIENCE_S, ServerProcess, eventually, freeze, mongod_pid, served

SERVICE = "clickstream.v1.ClickstreamService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEADLINE_S = 3.0
"""Shorter than the server's own patience with the database."""


class Outage:
    """A mongod that can go away in the given manner: stopped (connections are refused) or frozen (nothing answers)."""

    def __init__(self, manner: str, mongo: EmbeddedMongo, data_dir: Path) -> None:
        self._manner = manner
        self._mongo = mongo
        self._data_dir = data_dir
        self.uri = mongo.uri

    async def begin(self) -> None:
        if self._manner == "stopped":
            await self._mongo.stop()
        else:
            await freeze(mongod_pid(self._data_dir))

    async def end(self) -> None:
        if self._manner == "stopped":
            assert self.uri == await self._mongo.start()
        else:
            os.kill(mongod_pid(self._data_dir), signal.SIGCONT)


@pytest.fixture(params=["stopped", "frozen"])
async def outage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outage]:
    """A mongod of this test's own, still there."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.start()
    outage = Outage(request.param, mongo, tmp_path)
    yield outage
    if request.param == "frozen":
        await outage.end()
    await mongo.stop()


async def health(stub: health_pb2_grpc.HealthStub, service: str) -> int:
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
    return answer.status


async def watched(stub: health_pb2_grpc.HealthStub, service: str) -> list[int]:
    """What Watch tells until the service serves again after it did not."""
    told = []
    call = stub.Watch(health_pb2.HealthCheckRequest(service=service))
    async for answer in call:
        told.append(answer.status)
        if told[-2:] == [NOT_SERVING, SERVING]:
            break
    call.cancel()
    return told


async def test_health_follows_the_database(outage: Outage) -> None:
    """Check and Watch turn NOT_SERVING for the server and the service while MongoDB is away, and back by themselves.

    Who asks whether to restart the server is told that it lives.
    """
    async with served(outage.uri, "health") as client, grpc.aio.insecure_channel(client.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        names = ("", SERVICE)
        assert [SERVING, SERVING] == [await health(stub, name) for name in names]
        watches = [asyncio.create_task(watched(stub, name)) for name in names]

        await outage.begin()
        for name in names:
            await eventually(lambda name=name: _is(stub, name, NOT_SERVING), f"{name!r} does not serve")
        assert SERVING == await health(stub, LIVENESS)
        await outage.end()
        for name in names:
            await eventually(lambda name=name: _is(stub, name, SERVING), f"{name!r} serves")

        async with asyncio.timeout(30):
            assert [[SERVING, NOT_SERVING, SERVING]] * 2 == await asyncio.gather(*watches)


async def _is(stub: health_pb2_grpc.HealthStub, service: str, status: int) -> bool:
    return status == await health(stub, service)


async def test_every_call_is_unavailable_within_its_deadline(outage: Outage) -> None:
    """With MongoDB away each RPC ends UNAVAILABLE, with a delay to wait, before the caller's deadline is over.

    What is said of it is the service's own: neither the database's address nor a driver's words.
    """
    async with served(outage.uri, "away") as client, grpc.aio.insecure_channel(client.target) as channel:
        batch_id = (await client.register_session(Session(session_id="known"))).session.batch_id
        await outage.begin()

        calls = _calls(channel, batch_id)
        errors = dict(await asyncio.gather(*(_error_of(name, call) for name, call in calls.items())))
        await outage.end()

        assert dict.fromkeys(errors, grpc.StatusCode.UNAVAILABLE) == {
            name: error.code() for name, error in errors.items()
        }
        for error in errors.values():
            info, retry = _details(error)
            assert ("clickstream", "STORAGE_UNAVAILABLE") == (info.domain, info.reason)
            assert retry.retry_delay.ToMilliseconds() > 0
        assert 1 == len({error.details() for error in errors.values()})
        assert not re.search(r"\d{4}|[Mm]ongo|Error|Timeout", errors["GetSession"].details() or "")


def _calls(channel: grpc.aio.Channel, batch_id: str) -> dict[str, grpc.aio.Call]:
    """Every RPC, called with what it needs."""
    stubs = {"ClickstreamService": ClickstreamServiceStub(channel), "TransferService": TransferServiceStub(channel)}
    return {
        name: getattr(stubs[METHODS[name].containing_service.name], name)(
            iter(messages) if METHODS[name].client_streaming else messages[0], timeout=DEADLINE_S
        )
        for name, messages in needing_the_database(batch_id).items()
    }


async def _error_of(name: str, call) -> tuple[str, grpc.aio.AioRpcError]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(PATIENCE_S):
            await (anext(aiter(call)) if hasattr(call, "__aiter__") else call)
    return name, raised.value


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    packed = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return info, retry


async def test_the_client_tells_that_the_storage_is_away(outage: Outage) -> None:
    """Through the client, which retries, a call with MongoDB away still ends as StorageUnavailable with a delay."""
    async with served(outage.uri, "away") as plain, ClickstreamClient(plain.target, deadline_s=DEADLINE_S) as client:
        await outage.begin()

        with pytest.raises(StorageUnavailable) as raised:
            await client.register_session(Session(session_id="s"))
        await outage.end()

        assert raised.value.retry_after_s
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_follower_outlives_the_outage(outage: Outage) -> None:
    """A follower that was told of the outage goes on by itself and sees what was registered after it."""
    async with served(outage.uri, "follow") as client:
        await client.register_session(Session(session_id="before"))
        async with aclosing(client.get_batch_sessions("", follow=True)) as sessions:
            assert "before" == (await anext(sessions)).session.session_id
            coming = asyncio.create_task(anext(sessions))
            await outage.begin()
            with pytest.raises(ClickstreamError):
                async with ClickstreamClient(client.target, deadline_s=1.0) as hasty:
                    await hasty.get_batch("b")
            await outage.end()
            await eventually(lambda: _stored(client, "after"), "a registration after the outage")
            async with asyncio.timeout(30):
                assert "after" == (await coming).session.session_id


async def test_numbers_have_no_gap_after_an_outage(outage: Outage) -> None:
    """Sessions whose registration failed while MongoDB was away are registered later, and no number is missing."""
    async with served(outage.uri, "numbers") as plain, ClickstreamClient(plain.target, deadline_s=1.0) as client:
        assert await _stored(plain, "before")
        await outage.begin()
        ids = [f"during {number}" for number in range(8)]
        failed = await asyncio.gather(
            *(client.register_session(Session(session_id=session_id)) for session_id in ids), return_exceptions=True
        )
        assert all(isinstance(error, ClickstreamError) for error in failed)
        await outage.end()
        for session_id in [*ids, "after"]:
            await eventually(lambda session_id=session_id: _stored(plain, session_id), f"{session_id} is registered")
        pushed = await plain.push_events([SessionEvent(session_id="after", event_id="e", object_id="o")])

        batch_id = (await plain.get_session("after")).batch_id
        async with aclosing(plain.get_batch_sessions(batch_id)) as sessions:
            found = {session.session.session_id: session.session_number async for session in sessions}
        counter = (await plain.get_batch(batch_id)).session_counter

    assert 1 == pushed.inserted
    assert {"before", "after", *ids} == set(found)
    assert list(range(1, 11)) == sorted(found.values())
    assert 10 == counter


async def _stored(client: ClickstreamClient, session_id: str) -> bool:
    try:
        await client.register_session(Session(session_id=session_id))
    except ClickstreamError:
        return False
    return True


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_calls_that_run_out_of_time_keep_no_connection(tmp_path: Path, driver: str) -> None:
    """Calls that are cancelled while they wait for a connection, and once more, leave others their way to one."""
    process = await ServerProcess.start(
        data_dir=tmp_path, mongodb_driver=driver, storage_timeout_s="1", metrics_listen="127.0.0.1:0"
    )
    async with ClickstreamClient(process.address, deadline_s=2.0) as client:

        async def call(place: int) -> None:
            calls = (
                client.list_batches,
                partial(client.get_session, "s"),
                partial(client.register_session, Session(session_id=f"s-{place}")),
                partial(client.push_events, [SessionEvent(session_id="s", object_id="o", event_id=f"e-{place}")]),
            )
            with suppress(ClickstreamError, TimeoutError):
                async with asyncio.timeout(0.3 + 0.05 * place):
                    await calls[place % len(calls)]()

        async def answers() -> bool:
            try:
                await client.list_batches()
            except ClickstreamError:
                return False
            return True

        for _ in range(4):
            await freeze(mongod_pid(tmp_path))
            try:
                await asyncio.gather(*map(call, range(60)))
            finally:
                os.kill(mongod_pid(tmp_path), signal.SIGCONT)
            await eventually(answers, "the database answers again")
    assert 0 == await process.stop()
