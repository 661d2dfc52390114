"""Any bytes as the requests of any RPC: an answer or a clear error, and nothing half-stored.

`FUZZ_EXAMPLES=2000 pytest tests/fuzz` tries more, with a seed that it prints.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient, Session
from clickstream.export import ExportFilter
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import transfer_service_pb2 as pb_transfer
from harness import PATIENCE_S, served
from wire_strategies import requests_of

METHODS = [
    method
    for service in (
        pb.DESCRIPTOR.services_by_name["ClickstreamService"],
        pb_transfer.DESCRIPTOR.services_by_name["TransferService"],
    )
    for method in service.methods
]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
Code = grpc.StatusCode
CLEAR = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
}


@pytest.fixture(scope="module")
async def client(mongodb_uri: str) -> AsyncIterator[ClickstreamClient]:
    async with served(mongodb_uri, "test_fuzz") as client:
        yield client
    async with AsyncMongoClient(mongodb_uri) as mongo:
        await mongo.drop_database("test_fuzz")


@pytest.fixture(scope="module")
async def channel(client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(client.target, options=[("grpc.enable_retries", 0)]) as channel:
        yield channel


async def ended(channel: grpc.aio.Channel, method: Any, requests: list[bytes]) -> grpc.aio.Call:
    """Make the call, read what comes (a follower's first answers only), and return it."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if not method.client_streaming:
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = kind(path)(requests[0], timeout=PATIENCE_S)
    else:
        call = channel.stream_stream(path)(iter(requests), timeout=PATIENCE_S)
    try:
        if not method.server_streaming:
            await call
        elif follows(method, requests[0]):
            await call.read()
        else:
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        # What grpc.aio makes of a request that it could not send, since the server had ended the stream already.
        return call if error.details() == "Internal error from Core" else error
    return call


def follows(method: Any, request: bytes) -> bool:
    if method.name != "GetBatchSessions":
        return False
    try:
        return pb.GetBatchSessionsRequest.FromString(request).follow
    except Exception:
        return False


def reason(call: Any) -> str:
    metadata = dict(tuple(call.trailing_metadata() or ()))
    status = status_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    return info.reason if any(detail.Unpack(info) for detail in status.details) else ""


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@settings(
    deadline=None,
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
async def test_any_request_gets_an_answer_or_a_clear_error(
    method: Any, data: st.DataObject, client: ClickstreamClient, channel: grpc.aio.Channel, caplog
) -> None:
    """Whatever bytes are sent, the call ends with an answer or an error of the contract, and the next one is served."""
    caplog.set_level(logging.WARNING)
    requests = data.draw(requests_of(method))
    call = await ended(channel, method, requests)
    if isinstance(call, grpc.aio.AioRpcError):
        assert call.code() in CLEAR, call
        assert reason(call), call
    else:
        call.cancel()
    await client.list_batches(page_size=1)

    ours = [record for record in caplog.records if record.name.startswith("clickstream_server")]
    assert [] == [record.getMessage() for record in ours if record.levelno >= logging.ERROR]


async def test_what_the_fuzzer_stored_is_whole(client: ClickstreamClient, mongodb_uri: str) -> None:
    """After all of it every session and event that is stored can be read, and no number was given out twice.

    Runs after the others of this file if they run in this process; each time it holds of what there is.
    """
    await client.register_session(Session(session_id="good"))
    async with AsyncMongoClient(mongodb_uri) as mongo:
        database = mongo["test_fuzz"]
        sessions = [found async for found in database.sessions.find()]
        counters = {found["_id"]: found["session_counter"] async for found in database.batches.find()}
        collecting = await database.batches.count_documents({"status": "COLLECTING"})
    places = [(found["batch_id"], found["session_number"]) for found in sessions]
    exported: set[str] = set()
    async with aclosing(client.export_sessions(ExportFilter())) as pages:
        async for page in pages:
            exported.update(one.session.session.session_id for one in page.sessions)

    assert {found["_id"] for found in sessions} == exported
    assert len(places) == len(set(places))
    assert all(1 <= number <= counters[batch_id] for batch_id, number in places)
    assert 1 == collecting
