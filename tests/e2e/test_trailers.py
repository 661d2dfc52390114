"""What every answer carries beside its message: the call's id, and where its time went."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2
from pymongo import AsyncMongoClient
from raw_calls import METHODS, needing_the_database

from clickstream import BatchNotFound, ClickstreamClient, InternalError, InvalidField, Session
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from harness import eventually, group_commit_runs

DEADLINE_S = 20.0
DETAILS = "grpc-status-details-bin"
STAGES = ["queue", "validate", "database", "encode", "total"]
UNARY = [name for name, method in METHODS.items() if not method.server_streaming]
Metadata = dict[str, Any]


@pytest.fixture
async def channel(client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(client.target, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
async def stub(channel: grpc.aio.Channel) -> Any:
    return ClickstreamServiceStub(channel)


async def ended(call: Any) -> tuple[grpc.StatusCode, Metadata]:
    """The code that a call ended with, and its trailing metadata."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            await (call.read() if hasattr(call, "read") else call)
    except grpc.aio.AioRpcError:
        pass
    return await call.code(), dict(tuple(await call.trailing_metadata()))


def timing(metadata: Metadata) -> dict[str, float]:
    """`server-timing` in milliseconds, by stage."""
    parts = [re.fullmatch(r"(\w+);dur=(\d+\.\d+)", part) for part in metadata["server-timing"].split(", ")]
    return {found[1]: float(found[2]) for found in parts if found is not None}


def check_timing(metadata: Metadata) -> None:
    found = timing(metadata)
    assert STAGES == list(found)
    assert found["total"] > 0
    assert found["total"] == pytest.approx(sum(found[stage] for stage in STAGES[:-1]), abs=0.05)


# --- every answer ---------------------------------------------------------------------------------------------------


async def test_every_answer_has_its_id_and_its_timing(client: ClickstreamClient, stub: Any) -> None:
    """Every unary call that succeeds tells its id and where its time went, some of it in the database."""
    batch_id = (await client.register_session(Session(session_id="known"))).session.batch_id
    requests = needing_the_database(batch_id)

    for name in UNARY:
        (request,) = requests[name]
        code, metadata = await ended(getattr(stub, name)(request, timeout=DEADLINE_S))
        assert (name, grpc.StatusCode.OK) == (name, code)
        assert re.fullmatch("[0-9a-f]{16}", metadata["x-request-id"])
        check_timing(metadata)
        assert timing(metadata)["database"] > 0, name


BAD_REQUESTS = {"empty": b"", "unreadable": b"\xff", "large": bytes(9 * 1024 * 1024)}


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name in UNARY for bad in BAD_REQUESTS if (name, bad) != ("ListBatches", "empty")]
)
async def test_every_error_has_its_details_too(channel: grpc.aio.Channel, name: str, bad: str) -> None:
    """A call that is refused tells its id and timing beside the details of the error."""
    call = channel.unary_unary(f"/clickstream.v1.ClickstreamService/{name}")
    code, metadata = await ended(call(BAD_REQUESTS[bad], timeout=DEADLINE_S, metadata=[("x-request-id", "mine")]))

    assert code.value[0] == status_pb2.Status.FromString(metadata[DETAILS]).code
    assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND}
    assert "mine" == metadata["x-request-id"]
    check_timing(metadata)
    assert 0 == timing(metadata)["database"], "what is refused is refused before that"


async def test_calls_at_the_same_time_have_ids_of_their_own(stub: Any) -> None:
    """Each of many calls in flight gets its own id back, and those without one get different ones."""
    ids = [f"call-{n}" for n in range(50)]
    calls = [
        stub.RegisterSession(
            pb.RegisterSessionRequest(session=session_pb2.Session(session_id=f"s-{n}")),
            timeout=DEADLINE_S,
            metadata=metadata,
        )
        for n, metadata in enumerate([*([("x-request-id", each)] for each in ids), *([None] * 50)])
    ]
    found = [metadata["x-request-id"] for _, metadata in await asyncio.gather(*map(ended, calls))]

    assert ids == found[:50]
    assert 50 == len(set(found[50:]))


# --- the id ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", ["a", "req-1/b:c_d.e+f=", "x" * 128])
async def test_an_id_of_the_callers_own_comes_back(stub: Any, own: str) -> None:
    """The caller's id is the call's if it is made of letters, digits and `-_.:/+=`, 128 at most."""
    call = stub.ListBatches(pb.ListBatchesRequest(), timeout=DEADLINE_S, metadata=[("x-request-id", own)])

    assert own == (await ended(call))[1]["x-request-id"]


@pytest.mark.parametrize("own", ["", "two words", 'a"b', "a;b", "x" * 129])
async def test_another_id_is_replaced(stub: Any, own: str) -> None:
    """An id that could confuse a reader of the log is passed over for one of the server's own."""
    call = stub.ListBatches(pb.ListBatchesRequest(), timeout=DEADLINE_S, metadata=[("x-request-id", own)])

    assert re.fullmatch("[0-9a-f]{16}", (await ended(call))[1]["x-request-id"])


async def test_the_id_of_an_internal_error_is_the_calls(
    client: ClickstreamClient, mongodb_uri: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One id stands in the error's details, in the trailing metadata, and in the log."""
    await client.register_session(Session(session_id="s-1"))
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:  # a fault of ours needs something broken to show
        await mongo[database]["sessions"].update_one({"_id": "s-1"}, {"$unset": {"batch_id": 1}})
    with caplog.at_level(logging.ERROR), pytest.raises(InternalError) as raised:
        await client.get_session("s-1")

    assert raised.value.request_id
    assert raised.value.request_id == raised.value.error_id
    assert f"internal error {raised.value.request_id}: KeyError in" in caplog.text


async def test_the_clients_errors_know_the_id(client: ClickstreamClient) -> None:
    """An error of a call or of a stream tells the id that the server knows it by; one that was never sent has none."""
    with pytest.raises(InvalidField) as call:
        await client.get_batch("")
    with pytest.raises(BatchNotFound) as stream:
        _ = [found async for found in client.get_batch_sessions("b")]
    with pytest.raises(InvalidField) as unsent:
        await client.get_batch("\ud800")

    assert re.fullmatch("[0-9a-f]{16}", call.value.request_id)
    assert re.fullmatch("[0-9a-f]{16}", stream.value.request_id)
    assert "" == unsent.value.request_id


async def test_streams_have_their_id(client: ClickstreamClient, stub: Any) -> None:
    """A stream ends with its id, whether it comes to its end or fails; it has no timing."""
    batch_id = (await client.register_session(Session(session_id="s-1"))).session.batch_id
    for asked, code in ((batch_id, grpc.StatusCode.OK), ("b", grpc.StatusCode.NOT_FOUND)):
        call = stub.GetBatchSessions(
            pb.GetBatchSessionsRequest(batch_id=asked), timeout=DEADLINE_S, metadata=[("x-request-id", "mine")]
        )
        found, metadata = await ended(call)
        assert code == found
        assert "mine" == metadata["x-request-id"]
        assert "server-timing" not in metadata


# --- the time -------------------------------------------------------------------------------------------------------


async def test_the_wait_for_the_group_in_front_is_queue(stub: Any, mongodb_uri: str, database: str) -> None:
    """While the batch is locked, the group in flight spends its time in the database, the next one in the queue."""

    def register(session_id: str) -> Any:
        session = session_pb2.Session(session_id=session_id)
        return stub.RegisterSession(pb.RegisterSessionRequest(session=session), timeout=DEADLINE_S)

    await register("s-1")
    async with AsyncMongoClient[Any](mongodb_uri) as mongo, mongo.start_session() as holder:
        async with await holder.start_transaction():
            await mongo[database]["batches"].update_one({}, {"$set": {"held": True}}, session=holder)
            calls = [asyncio.ensure_future(ended(register("s-2")))]
            await eventually(group_commit_runs, "the one is in flight before the other comes")
            calls.append(asyncio.ensure_future(ended(register("s-3"))))
            await stub.ListBatches(pb.ListBatchesRequest(), timeout=DEADLINE_S)  # answered after that was begun
            began = perf_counter()
            await asyncio.sleep(0.5)
            held_ms = (perf_counter() - began) * 1000
        first, second = [timing(metadata) for _, metadata in await asyncio.gather(*calls)]

    assert first["database"] > held_ms * 0.9
    assert second["queue"] > held_ms * 0.9
