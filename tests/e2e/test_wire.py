"""The wire as any client sees it: raw calls to a real server."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from raw_calls import DEADLINE_S, SERVICE, invalid_paths, raw, refusal

from clickstream import Session
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from harness import served

MIB = 1024 * 1024


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["StreamEvents", "ImportSessions"])
async def test_a_stream_is_answered_before_its_first_request(channel: grpc.aio.Channel, method: str) -> None:
    """The headers of a stream both ways come at once: clients such as tonic's send nothing before they are there."""
    call = channel.stream_stream(f"/clickstream.v1.TransferService/{method}")(timeout=DEADLINE_S)

    assert () == tuple(await call.initial_metadata())
    assert not call.done()
    call.cancel()


# --- reflection and health ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(channel: grpc.aio.Channel, version: str) -> None:
    """Reflection v1 and v1alpha list the service, health and both reflections, and know their files."""
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    listed, service, health = await reflected(channel, requests, version)

    assert {
        SERVICE,
        "clickstream.v1.TransferService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } == {found.name for found in listed.list_services_response.service}
    assert b"ClickstreamService" in b"".join(service.file_descriptor_response.file_descriptor_proto)
    assert b"HealthCheckRequest" in b"".join(health.file_descriptor_response.file_descriptor_proto)


async def test_reflection_knows_every_method(channel: grpc.aio.Channel) -> None:
    """Reflection has the file of each method by the method's full name, as it has that of a service; of none else."""
    methods = [method.full_name for method in pb.DESCRIPTOR.services_by_name["ClickstreamService"].methods]
    requests = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in (*methods, f"{SERVICE}.No")
    ]
    *found, other = await reflected(channel, requests)

    assert all(b"ClickstreamService" in b"".join(a.file_descriptor_response.file_descriptor_proto) for a in found)
    assert grpc.StatusCode.NOT_FOUND.value[0] == other.error_response.error_code


async def reflected(
    channel: grpc.aio.Channel, requests: list[reflection_pb2.ServerReflectionRequest], version: str = "v1"
) -> list[reflection_pb2.ServerReflectionResponse]:
    """What reflection answers to these."""
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in ask(iter(requests), timeout=DEADLINE_S)]


async def test_health_serves(channel: grpc.aio.Channel) -> None:
    """Health says SERVING for the server and the service, and NOT_FOUND for a service that there is not."""
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_S)
        assert health_pb2.HealthCheckResponse.SERVING == answer.status
    error, _ = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=DEADLINE_S))

    assert grpc.StatusCode.NOT_FOUND == error.code()


# --- error details --------------------------------------------------------------------------------------------------


async def test_not_found_names_the_resource(stub: ClickstreamServiceStub) -> None:
    """NOT_FOUND carries its reason and a ResourceInfo with the type and the id."""
    session = session_pb2.Session(session_id="none")
    calls = {
        ("SESSION_NOT_FOUND", "Session"): [
            stub.GetSession(pb.GetSessionRequest(session_id="none")),
            stub.UpdateSession(pb.UpdateSessionRequest(session=session)),
            stub.MarkSessionIrrelevant(pb.MarkSessionIrrelevantRequest(session_id="none")),
        ],
        ("BATCH_NOT_FOUND", "SessionBatch"): [
            stub.GetBatch(pb.GetBatchRequest(batch_id="none")),
            stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id="none")),
            stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id="none", follow=True)),
            stub.UpdateBatchStatus(pb.UpdateBatchStatusRequest(batch_id="none", status=2)),
        ],
    }
    for (reason, kind), made in calls.items():
        for call in made:
            error, details = await refusal(call)
            resource = details["ResourceInfo"]
            assert (grpc.StatusCode.NOT_FOUND, reason) == (error.code(), details["ErrorInfo"].reason)
            assert (f"clickstream.v1.{kind}", "none") == (resource.resource_type, resource.resource_name)


async def test_nothing_to_release_has_its_reason(mongodb_uri: str, database: str) -> None:
    """ReleaseBatch, and following the batch that collects, without one are NOT_FOUND, NO_COLLECTING_BATCH."""
    async with served(mongodb_uri, database) as empty, grpc.aio.insecure_channel(empty.target) as channel:
        stub = ClickstreamServiceStub(channel)
        for call in (
            stub.ReleaseBatch(pb.ReleaseBatchRequest(release_id="r")),
            stub.GetBatchSessions(pb.GetBatchSessionsRequest(follow=True)),
        ):
            error, details = await refusal(call)
            assert grpc.StatusCode.NOT_FOUND == error.code()
            assert "NO_COLLECTING_BATCH" == details["ErrorInfo"].reason
            assert "clickstream.v1.SessionBatch" == details["ResourceInfo"].resource_type


async def test_a_failed_precondition_has_its_reason(mongodb_uri: str, database: str) -> None:
    """A second collecting batch and an unexpected status are FAILED_PRECONDITION, each with its reason."""
    async with served(mongodb_uri, database) as own, grpc.aio.insecure_channel(own.target) as channel:
        stub = ClickstreamServiceStub(channel)
        batch_id = (await own.register_session(Session(session_id="a"))).session.batch_id
        await own.release_batch("r")
        await own.register_session(Session(session_id="b"))
        collecting = pb.UpdateBatchStatusRequest(batch_id=batch_id, status=1)
        unexpected = pb.UpdateBatchStatusRequest(batch_id=batch_id, status=4, expected_status=3)

        for request, reason in ((collecting, "BATCH_ALREADY_COLLECTING"), (unexpected, "BATCH_STATUS_MISMATCH")):
            error, details = await refusal(stub.UpdateBatchStatus(request))
            assert (grpc.StatusCode.FAILED_PRECONDITION, reason) == (error.code(), details["ErrorInfo"].reason)


# --- size -----------------------------------------------------------------------------------------------------------


async def test_a_large_request_is_refused_with_a_reason(channel: grpc.aio.Channel) -> None:
    """A request past 8 MiB is RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE, and the connection goes on."""
    error, details = await refusal(raw(channel, "RegisterSession", bytes(9 * MIB)))

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()
    assert "MESSAGE_TOO_LARGE" == details["ErrorInfo"].reason


async def test_a_huge_request_is_refused(channel: grpc.aio.Channel) -> None:
    """A request past what is read at all is RESOURCE_EXHAUSTED."""
    error, _ = await refusal(raw(channel, "RegisterSession", bytes(20 * MIB)))

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()


@pytest.mark.parametrize("count", [30, 10_000])
async def test_many_violations_fit_into_the_answer(stub: ClickstreamServiceStub, count: int) -> None:
    """A push of many invalid events is INVALID_ARGUMENT with 20 violations at most: metadata is limited."""
    events = [event_pb2.SessionEvent(session_id="\u00fc" * 300, event_type="\u00fc" * 100) for _ in range(count)]

    named = await invalid_paths(stub.PushEvents(pb.PushEventsRequest(events=events), timeout=DEADLINE_S))

    assert 0 < len(named) <= 20
    assert "events[0].session_id" == named[0]


async def test_a_long_unknown_id_fits_into_the_answer(stub: ClickstreamServiceStub) -> None:
    """NOT_FOUND for an id of 256 characters that take four bytes each names it."""
    unknown = "\U0001f600" * 256
    error, details = await refusal(stub.GetSession(pb.GetSessionRequest(session_id=unknown)))

    assert grpc.StatusCode.NOT_FOUND == error.code()
    assert unknown == details["ResourceInfo"].resource_name


async def test_all_of_ten_thousand_failures_are_told(stub: ClickstreamServiceStub) -> None:
    """A push with one good event among 9,999 bad ones lists every bad one."""
    good = event_pb2.SessionEvent(session_id="many", event_id="e", object_id="o")
    bad = event_pb2.SessionEvent(session_id=" ")
    answer = await stub.PushEvents(pb.PushEventsRequest(events=[good, *[bad] * 9_999]), timeout=DEADLINE_S)

    assert (1, 9_999, 9_999) == (answer.inserted, answer.rejected, len(answer.failures))
