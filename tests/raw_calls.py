"""Raw calls, whatever they hold, and how they end."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer

SERVICES = [service for file in (pb, pb_transfer) for service in file.DESCRIPTOR.services_by_name.values()]
METHODS = {method.name: method for service in SERVICES for method in service.methods}
SERVICE = "clickstream.v1.ClickstreamService"
DEADLINE_S = 20.0
Details = dict[type[Message], Any]


async def refusal(call: Any) -> tuple[grpc.aio.AioRpcError, Details]:
    """The error that a call ends with, and its details by type."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call.read() if hasattr(call, "read") else call)
    packed = [value for key, value in raised.value.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed[0] if packed else b"")
    found: Details = {}
    for kind in ("ErrorInfo", "BadRequest", "ResourceInfo", "RetryInfo"):
        for detail in status.details:
            message = getattr(error_details_pb2, kind)()
            if detail.Unpack(message):
                found[kind] = message
    if packed:
        assert raised.value.code().value[0] == status.code
        assert raised.value.details() == status.message
        assert "clickstream" == found["ErrorInfo"].domain
    return raised.value, found


async def invalid_paths(call: Any) -> list[str]:
    """The fields that an INVALID_ARGUMENT names."""
    error, details = await refusal(call)
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code(), error.details()
    assert "INVALID_FIELD" == details["ErrorInfo"].reason
    violations = details["BadRequest"].field_violations
    assert all(violation.description for violation in violations)
    return [violation.field for violation in violations]


def raw(channel: grpc.aio.Channel, method: str, data: bytes) -> Any:
    """A call with these bytes as its request."""
    path = f"/{SERVICE}/{method}"
    if method == "GetBatchSessions":
        return channel.unary_stream(path)(data, timeout=DEADLINE_S)
    return channel.unary_unary(path)(data, timeout=DEADLINE_S)


def needing_the_database(batch_id: str) -> dict[str, list[Any]]:
    """What each RPC is called with, so that it needs the database; `known` is a session of this batch.

    Called in this order, all of them are answered.
    """
    session = session_pb2.Session(session_id="s")
    event = {"session_id": "s", "event_id": "e", "object_id": "o"}
    config = pb_transfer.ImportConfig(import_id="i")
    chunk = pb_transfer.ImportChunk(sequence=1, items=[{"session": {"session_id": "imported"}, "events": [event]}])
    found: dict[str, list[Any]] = {
        "RegisterSession": [pb.RegisterSessionRequest(session=session)],
        "UpdateSession": [pb.UpdateSessionRequest(session=session)],
        "PushEvents": [pb.PushEventsRequest(events=[event])],
        "MarkSessionIrrelevant": [pb.MarkSessionIrrelevantRequest(session_id="known")],
        "GetSession": [pb.GetSessionRequest(session_id="known")],
        "GetBatchSessions": [pb.GetBatchSessionsRequest(batch_id=batch_id, follow=True)],
        "GetBatch": [pb.GetBatchRequest(batch_id=batch_id)],
        "ListBatches": [pb.ListBatchesRequest()],
        "ReleaseBatch": [pb.ReleaseBatchRequest(release_id="r")],
        "UpdateBatchStatus": [pb.UpdateBatchStatusRequest(batch_id=batch_id, status=2)],
        "StreamEvents": [pb_transfer.StreamEventsRequest(sequence=1, events=[event])],
        "ImportSessions": [
            pb_transfer.ImportSessionsRequest(config=config),
            pb_transfer.ImportSessionsRequest(chunk=chunk),
        ],
        "ExportSessions": [pb_transfer.ExportSessionsRequest()],
    }
    assert set(found) == set(METHODS)
    return found
