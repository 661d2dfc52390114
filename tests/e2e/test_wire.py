"""The wire as any client sees it: raw calls to a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from clickstream import ClickstreamClient, Session, SessionEvent
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from harness import served

SERVICE = "clickstream.v1.ClickstreamService"
MIB = 1024 * 1024
DEADLINE_S = 20.0
LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
Details = dict[type[Message], Any]


@pytest.fixture(scope="module")
async def client(mongodb_uri: str) -> AsyncIterator[ClickstreamClient]:
    async with served(mongodb_uri, "test_wire") as client:
        yield client


@pytest.fixture(scope="module")
async def channel(client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(client.target, options=LARGE) as channel:
        yield channel


@pytest.fixture(scope="module")
async def stub(channel: grpc.aio.Channel) -> ClickstreamServiceStub:
    return ClickstreamServiceStub(channel)


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


# --- reflection and health ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(channel: grpc.aio.Channel, version: str) -> None:
    """Reflection v1 and v1alpha list the service, health and both reflections, and know their files."""
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    listed, service, health = [answer async for answer in ask(iter(requests), timeout=DEADLINE_S)]

    assert {
        SERVICE,
        "clickstream.v1.TransferService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } == {found.name for found in listed.list_services_response.service}
    assert b"ClickstreamService" in b"".join(service.file_descriptor_response.file_descriptor_proto)
    assert b"HealthCheckRequest" in b"".join(health.file_descriptor_response.file_descriptor_proto)


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


# --- invalid requests -----------------------------------------------------------------------------------------------


async def test_an_empty_call_names_what_is_missing(stub: ClickstreamServiceStub) -> None:
    """Every RPC with an empty request that needs something is INVALID_ARGUMENT and names the field."""
    expected = {
        "RegisterSession": "session",
        "UpdateSession": "session",
        "PushEvents": "events",
        "MarkSessionIrrelevant": "session_id",
        "GetSession": "session_id",
        "GetBatchSessions": "batch_id",
        "GetBatch": "batch_id",
        "ReleaseBatch": "release_id",
        "UpdateBatchStatus": "status",
    }
    for method, field in expected.items():
        request = getattr(pb, f"{method}Request")()
        assert field in await invalid_paths(getattr(stub, method)(request, timeout=DEADLINE_S))


async def test_unknown_enum_values_are_named(stub: ClickstreamServiceStub) -> None:
    """A number that is no value of its enum is INVALID_ARGUMENT at its path."""
    session = session_pb2.Session(session_id="enum", sort_by=session_pb2.SortBy(field="f", order=7))
    calls = {
        "session.sort_by.order": stub.RegisterSession(pb.RegisterSessionRequest(session=session)),
        "status": stub.UpdateBatchStatus(pb.UpdateBatchStatusRequest(batch_id="b", status=99)),
        "expected_status": stub.UpdateBatchStatus(
            pb.UpdateBatchStatusRequest(batch_id="b", status=2, expected_status=99)
        ),
        "statuses[1]": stub.ListBatches(pb.ListBatchesRequest(statuses=[1, 99])),
    }
    for path, call in calls.items():
        assert [path] == await invalid_paths(call)


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(0, -1), (0, 10**9), (2**63 - 1, 0), (-(2**63), 0), (253402300800, 0), (-62135596801, 0)]
)
async def test_an_impossible_moment_is_named(stub: ClickstreamServiceStub, seconds: int, nanos: int) -> None:
    """A Timestamp outside of the years 1 to 9999 or with impossible nanos is INVALID_ARGUMENT at its path."""
    moment = {"seconds": seconds, "nanos": nanos}
    session = session_pb2.Session(session_id="moment", created_at=moment)
    event = event_pb2.SessionEvent(session_id="moment", event_id="e", object_id="o", created_at=moment)

    registered = stub.RegisterSession(pb.RegisterSessionRequest(session=session))
    pushed = stub.PushEvents(pb.PushEventsRequest(events=[event]))

    assert ["session.created_at"] == await invalid_paths(registered)
    assert ["events[0].created_at"] == await invalid_paths(pushed)


async def test_the_first_and_last_moment_come_back(stub: ClickstreamServiceStub) -> None:
    """The earliest Timestamp that there is is stored and comes back."""
    session = session_pb2.Session(session_id="year 1", created_at={"seconds": -62135596800})
    answer = await stub.RegisterSession(pb.RegisterSessionRequest(session=session))

    assert -62135596800 == answer.session.session.created_at.seconds


# --- bytes that are no request --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", b"\x07\x07\x07", b"\x0a\x05ab"])
async def test_garbage_is_invalid(channel: grpc.aio.Channel, data: bytes) -> None:
    """Bytes that are no protobuf message are INVALID_ARGUMENT on every RPC."""
    for method in pb.DESCRIPTOR.services_by_name["ClickstreamService"].methods:
        error, details = await refusal(raw(channel, method.name, data))

        assert (method.name, grpc.StatusCode.INVALID_ARGUMENT) == (method.name, error.code())
        assert "INVALID_FIELD" == details["ErrorInfo"].reason


BAD_TEXT = [b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xff", b"\xc0\x80", b"ab\xe2\x82"]
"""A lone surrogate, a pair of them (CESU-8), no UTF-8, an overlong NUL, a character that breaks off."""
MARK = "here it is"


@pytest.mark.parametrize("text", BAD_TEXT)
async def test_text_that_is_not_utf8_is_named(channel: grpc.aio.Channel, text: bytes) -> None:
    """Text that is not UTF-8 is INVALID_ARGUMENT at its field's path, wherever it stands."""
    event = {"session_id": "s", "event_id": "e", "object_id": "o"}
    requests: dict[str, tuple[str, Message]] = {
        "session.session_id": ("RegisterSession", _session(session_id=MARK)),
        "session.search_query": ("RegisterSession", _session(search_query={"string_value": MARK})),
        "session.search_results[1].object_id": (
            "RegisterSession",
            _session(search_results=[{"object_id": "o"}, {"object_id": MARK}]),
        ),
        "session.search_meta": ("RegisterSession", _session(search_meta={"a": [MARK]})),
        "session.sort_by.field": ("RegisterSession", _session(sort_by={"field": MARK})),
        "events[1].meta": ("PushEvents", pb.PushEventsRequest(events=[event, event | {"meta": {MARK: 1}}])),
        "batch_id": ("GetBatch", pb.GetBatchRequest(batch_id=MARK)),
    }
    for path, (method, request) in requests.items():
        data = request.SerializeToString()
        filled = text.ljust(len(MARK), b"x")
        assert data != data.replace(MARK.encode(), filled)

        named = await invalid_paths(raw(channel, method, data.replace(MARK.encode(), filled)))

        assert [path] == [name[: len(path)] for name in named]


async def test_nul_is_named(stub: ClickstreamServiceStub) -> None:
    """Text with a NUL character is INVALID_ARGUMENT at its path."""
    assert ["session.session_id"] == await invalid_paths(stub.RegisterSession(_session(session_id="a\0b")))
    assert ["session.search_query"] == await invalid_paths(
        stub.RegisterSession(_session(search_query={"string_value": "a\0b"}))
    )
    assert ["batch_id"] == await invalid_paths(stub.GetBatch(pb.GetBatchRequest(batch_id="a\0b")))
    assert ["release_id"] == await invalid_paths(stub.ReleaseBatch(pb.ReleaseBatchRequest(release_id="a\0b")))


def _session(**fields: Any) -> pb.RegisterSessionRequest:
    return pb.RegisterSessionRequest(session=session_pb2.Session(**{"session_id": "bad", **fields}))


# --- nesting --------------------------------------------------------------------------------------------------------


def nested(levels: int, inner: bytes = b"") -> bytes:
    """A Struct of so many levels, as bytes: protobuf's own writer stops at 100 nested messages."""
    struct = inner
    for _ in range(levels - 1):
        value = _field(5, struct)  # Value.struct_value
        struct = _field(1, _field(1, b"a") + _field(2, value))  # an entry of Struct.fields
    return struct


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def with_nested(place: str, struct: bytes) -> tuple[str, bytes]:
    """A method and a request with this struct at this place."""
    session_id = _field(1, b"deep " + place.encode())
    if place == "events[0].meta":
        event = _field(1, b"e") + _field(2, b"deep") + _field(3, b"o") + _field(6, struct)
        return "PushEvents", _field(1, event)
    inner = {
        "session.search_query": _field(2, _field(5, struct)),
        "session.search_results[0].meta": _field(3, _field(1, b"o") + _field(3, struct)),
        "session.search_meta": _field(4, struct),
        "session.payload_filter": _field(5, struct),
    }[place]
    return "RegisterSession", _field(1, session_id + inner)


PLACES = [
    "session.search_query",
    "session.search_results[0].meta",
    "session.search_meta",
    "session.payload_filter",
    "events[0].meta",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("levels", [33, 40, 100, 1000])
async def test_too_deep_a_nesting_is_named(channel: grpc.aio.Channel, place: str, levels: int) -> None:
    """JSON nested deeper than 32 levels is INVALID_ARGUMENT at its path, however deep it is."""
    named = await invalid_paths(raw(channel, *with_nested(place, nested(levels))))

    assert [place] == [name[: len(place)] for name in named]


@pytest.mark.parametrize("place", PLACES)
async def test_the_deepest_nesting_comes_back(channel: grpc.aio.Channel, client: ClickstreamClient, place: str) -> None:
    """JSON nested 32 levels deep is stored and read back, alone and in a stream."""
    method, data = with_nested(place, nested(32))
    await raw(channel, method, data)
    if place == "events[0].meta":
        await client.register_session(Session(session_id="deep"))
    found = await client.get_session("deep" if place == "events[0].meta" else f"deep {place}")
    async with aclosing(client.get_batch_sessions(found.batch_id)) as sessions:
        streamed = [one async for one in sessions if one.session.session_id == found.session.session_id]
    value = {
        "session.search_query": found.session.search_query,
        "session.search_results[0].meta": found.session.search_results and found.session.search_results[0].meta,
        "session.search_meta": found.session.search_meta,
        "session.payload_filter": found.session.payload_filter,
        "events[0].meta": found.events and found.events[0].meta,
    }[place]
    levels = 1
    while value:
        levels, value = levels + 1, value["a"]

    assert 32 == levels
    assert [found] == streamed


async def test_lists_count_as_levels(stub: ClickstreamServiceStub) -> None:
    """A structured query of lists may have 32 levels and not 33."""

    def lists(levels: int) -> struct_pb2.Value:
        value: Any = []
        for _ in range(levels - 1):
            value = [value]
        return json_format.ParseDict(value, struct_pb2.Value(), max_recursion_depth=200)

    await stub.RegisterSession(_session(session_id="lists", search_query=lists(32)))

    assert ["session.search_query"] == [
        name[:20] for name in await invalid_paths(stub.RegisterSession(_session(search_query=lists(33))))
    ]


async def test_a_value_of_no_kind_is_named(stub: ClickstreamServiceStub) -> None:
    """A Value without a kind is INVALID_ARGUMENT at its path."""
    none = struct_pb2.Value()
    struct = struct_pb2.Struct(fields={"a": struct_pb2.Value(list_value={"values": [none]})})

    assert ["session.search_query"] == await invalid_paths(stub.RegisterSession(_session(search_query=none)))
    assert ["session.search_meta.a[0]"] == await invalid_paths(stub.RegisterSession(_session(search_meta=struct)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
async def test_a_number_that_is_not_finite_is_named(stub: ClickstreamServiceStub, number: float) -> None:
    """A number that is not finite is INVALID_ARGUMENT at its path."""
    meta = {"a": {"b": [1, number]}}
    results = [{"object_id": "o", "rank": number}]

    assert ["session.search_meta.a.b[1]"] == await invalid_paths(stub.RegisterSession(_session(search_meta=meta)))
    assert ["session.search_results[0].rank"] == await invalid_paths(
        stub.RegisterSession(_session(search_results=results))
    )


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


async def test_long_paths_fit_into_the_answer(stub: ClickstreamServiceStub) -> None:
    """Violations at very long paths do not break the answer."""
    meta = {str(number) + "\u4e16" * 2000: float("nan") for number in range(20)}

    assert await invalid_paths(stub.RegisterSession(_session(search_meta=meta)))


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


async def test_money_and_moments_survive_the_wire(client: ClickstreamClient) -> None:
    """An event's amount keeps its digits and its moment its microseconds."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    event = SessionEvent(
        session_id="money",
        event_id="e",
        event_type="purchase",
        created_at=moment,
        value={"currency_code": "EUR", "amount": "12.500"},
    )
    await client.register_session(Session(session_id="money"))
    await client.push_events([event])

    found = (await client.get_session("money")).events[0]

    assert ("12.500", moment) == (found.value.text, found.created_at)
