"""The table of methods and roles, and a server that keeps to it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_V1ALPHA
from guarded import Guarded

from clickstream.call_errors import failure_of
from clickstream.errors import ClickstreamError, MethodNotAllowed, PermissionDenied, Unauthenticated
from clickstream.v1 import clickstream_service_pb2, transfer_service_pb2
from clickstream_server.reflection import REFLECTION_V1
from clickstream_server.security.roles import ROLES, Role, roles_for
from harness import served

METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in (clickstream_service_pb2, transfer_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
REFLECTION = [f"/{name}/ServerReflectionInfo" for name in (REFLECTION_V1, REFLECTION_V1ALPHA)]
MAY = {
    Role.PRODUCER: {"RegisterSession", "UpdateSession", "PushEvents", "MarkSessionIrrelevant", "StreamEvents"},
    Role.CONSUMER: {"GetSession", "GetBatchSessions", "GetBatch", "ListBatches", "ExportSessions"},
    Role.OPERATOR: {
        *("MarkSessionIrrelevant", "GetSession", "GetBatchSessions", "GetBatch", "ListBatches"),
        *("ReleaseBatch", "UpdateBatchStatus", "ImportSessions"),
    },
    Role.ADMIN: {method.rpartition("/")[2] for method in METHODS},
}


async def outcome(channel: grpc.aio.Channel, method: str, token: str | None) -> ClickstreamError | None:
    """The error that an empty request to the method ends with."""
    while (error := await _outcome(channel, method, token)) is not None and not error.request_id:
        pass  # gRPC's own, as the service's have an id: it may not tell how a call ended that it was writing to
    return error


async def _outcome(channel: grpc.aio.Channel, method: str, token: str | None) -> ClickstreamError | None:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    request: Message = reflection_pb2.ServerReflectionRequest(list_services="") if "reflection" in method else None
    # As a stream in both directions: on the wire, all shapes are alike, and one request comes first.
    call: Any = channel.stream_stream(method)(
        iter([b"" if request is None else request.SerializeToString()]), metadata=metadata, timeout=30
    )
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    return None


def test_every_method_has_roles() -> None:
    """Each RPC of the descriptors, and reflection, stands in the table, and nothing else does."""
    assert sorted([*METHODS, *REFLECTION]) == sorted(ROLES)
    assert all(Role.ADMIN in roles for roles in ROLES.values())


def test_a_method_that_nobody_knows_is_for_admins() -> None:
    """What is not in the table is not open by mistake."""
    assert {Role.ADMIN} == roles_for("/other.Service/Method")


@pytest.mark.parametrize("role", Role)
async def test_a_role_may_call_its_methods_and_no_others(guarded: Guarded, role: Role) -> None:
    """With each role's token every method of the API is either open or refused as METHOD_NOT_ALLOWED."""
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        ended = {method: await outcome(channel, method, guarded.tokens[role]) for method in [*METHODS, *REFLECTION]}

    let_in = {method for method, error in ended.items() if not isinstance(error, PermissionDenied | Unauthenticated)}
    assert MAY[role] == {method.rpartition("/")[2] for method in let_in} - {"ServerReflectionInfo"}, ended
    assert set(REFLECTION) <= let_in
    assert {MethodNotAllowed} >= {type(ended[method]) for method in set(METHODS) - let_in}


async def test_without_a_token_nothing_but_health_is_open(guarded: Guarded) -> None:
    """Every method, reflection too, ends as MISSING_CREDENTIALS for who has no token; health answers."""
    async with grpc.aio.insecure_channel(guarded.address) as channel:
        ended = [await outcome(channel, method, None) for method in [*METHODS, *REFLECTION]]
        healthy = await outcome(channel, "/grpc.health.v1.Health/Check", None)

    assert {"MISSING_CREDENTIALS"} == {error.reason for error in ended if error is not None}
    assert len(METHODS) + len(REFLECTION) == len([error for error in ended if error is not None])
    assert healthy is None


async def test_without_a_tokens_file_everything_is_open(mongodb_uri: str, database: str) -> None:
    """A server on loopback without tokens asks nobody for one."""

    async with served(mongodb_uri, database) as client, grpc.aio.insecure_channel(client.target) as channel:
        ended = [await outcome(channel, method, None) for method in [*METHODS, *REFLECTION]]

    assert [] == [error for error in ended if isinstance(error, PermissionDenied | Unauthenticated)]
