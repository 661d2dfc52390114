"""Requests as our own client would never send them: what is wrong is named by its path, and nothing of it is stored."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
import pytest
from encoded import delimited, nested_struct
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from raw_calls import DEADLINE_S, invalid_paths, raw, refusal

from clickstream import ClickstreamClient, Session
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub


def registration(**fields: Any) -> pb.RegisterSessionRequest:
    return pb.RegisterSessionRequest(session=session_pb2.Session(**{"session_id": "bad", **fields}))


def struct(value: Value) -> Struct:
    return Struct(fields={"a": Value(list_value=ListValue(values=[value]))})


BAD_SESSIONS: list[tuple[str, dict[str, Any]]] = [
    ("session.search_query", {"search_query": Value(number_value=5)}),
    ("session.search_query", {"search_query": Value(bool_value=True)}),
    ("session.search_query", {"search_query": Value(string_value="a\0")}),
    ("session.search_query", {"search_query": Value()}),
    ("session.search_query.a[0]", {"search_query": Value(struct_value=struct(Value(number_value=float("nan"))))}),
    ("session.search_meta.a[0]", {"search_meta": struct(Value(number_value=float("inf")))}),
    ("session.search_meta.a[0]", {"search_meta": struct(Value(string_value="\0"))}),
    ("session.search_meta.a[0]", {"search_meta": struct(Value())}),
    ("session.search_meta", {"search_meta": Struct(fields={"\0": Value(number_value=1)})}),
    ("session.payload_filter.a[0]", {"payload_filter": struct(Value(number_value=float("-inf")))}),
    ("session.search_results[0].rank", {"search_results": [{"object_id": "o", "rank": float("nan")}]}),
    ("session.search_results[0].rank", {"search_results": [{"object_id": "o", "rank": float("inf")}]}),
    ("session.search_results[0].meta.a[0]", {"search_results": [{"object_id": "o", "meta": struct(Value())}]}),
    ("session.search_results[0].object_id", {"search_results": [{"object_id": "\0"}]}),
    ("session.session_id", {"session_id": "a\0"}),
    ("session.session_id", {"session_id": ""}),
    ("session.user_id", {"user_id": "\0"}),
    ("session.sort_by.order", {"sort_by": {"field": "f", "order": 7}}),
    ("session.sort_by.field", {"sort_by": {"field": "\0"}}),
    ("session.created_at", {"created_at": Timestamp(seconds=253_402_300_800)}),
    ("session.created_at", {"created_at": Timestamp(seconds=-62_135_596_801)}),
    ("session.created_at", {"created_at": Timestamp(seconds=1, nanos=-1)}),
    ("session.created_at", {"created_at": Timestamp(seconds=1, nanos=1_000_000_000)}),
]
BAD_EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("meta.a[0]", {"meta": struct(Value(number_value=float("nan")))}),
    ("meta.a[0]", {"meta": struct(Value())}),
    ("object_id", {"object_id": "\0"}),
    ("event_type", {"event_type": "\0"}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": ""}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "1e5"}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "NaN"}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "1,5"}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "+1"}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "\u0661"}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "1\n"}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "1" * 35}}),
    ("value.amount", {"value": {"currency_code": "EUR", "amount": "0." + "0" * 7000}}),
    ("value.currency_code", {"value": {"amount": "1"}}),
    ("created_at", {"created_at": Timestamp(nanos=-1)}),
]


# --- what is missing, unknown or impossible -------------------------------------------------------------------------


async def test_bad_sessions_are_refused(stub: ClickstreamServiceStub) -> None:
    """What protobuf can hold and JSON or the domain cannot is INVALID_ARGUMENT at its path, and not stored."""
    named = [
        await invalid_paths(stub.RegisterSession(pb.RegisterSessionRequest(session={"session_id": "never", **fields})))
        for _, fields in BAD_SESSIONS
    ]
    error, _ = await refusal(stub.GetSession(pb.GetSessionRequest(session_id="never")))

    assert [[path] for path, _ in BAD_SESSIONS] == named
    assert grpc.StatusCode.NOT_FOUND == error.code()


async def test_bad_events_are_rejected(stub: ClickstreamServiceStub) -> None:
    """An event that cannot be read is rejected by its field, and does not sink the good one beside it."""
    good = {"event_id": "good", "session_id": "s", "object_id": "o"}
    answer = await stub.PushEvents(pb.PushEventsRequest(events=[good, *({**good, **more} for _, more in BAD_EVENTS)]))

    assert (1, len(BAD_EVENTS)) == (answer.inserted, answer.rejected)
    assert [path for path, _ in BAD_EVENTS] == [failure.message.split(":")[0] for failure in answer.failures]


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


async def test_unknown_statuses_are_named(stub: ClickstreamServiceStub) -> None:
    """A number that is no status, and one that says nothing, is INVALID_ARGUMENT at its path."""
    calls = {
        "status": stub.UpdateBatchStatus(pb.UpdateBatchStatusRequest(batch_id="b", status=99)),
        "expected_status": stub.UpdateBatchStatus(
            pb.UpdateBatchStatusRequest(batch_id="b", status=2, expected_status=99)
        ),
        "statuses[0]": stub.ListBatches(pb.ListBatchesRequest(statuses=[0])),
        "statuses[1]": stub.ListBatches(pb.ListBatchesRequest(statuses=[1, 99])),
    }
    for path, call in calls.items():
        assert [path] == await invalid_paths(call)
    unset = pb.UpdateBatchStatusRequest(batch_id="b", status=2, expected_status=0)
    assert ["expected_status"] == await invalid_paths(stub.UpdateBatchStatus(unset))


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


async def test_the_first_moment_comes_back(stub: ClickstreamServiceStub) -> None:
    """The earliest moment that a Timestamp can hold is stored and comes back."""
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
    requests: dict[str, tuple[str, Message]] = {
        "session.session_id": ("RegisterSession", registration(session_id=MARK)),
        "session.search_query": ("RegisterSession", registration(search_query={"string_value": MARK})),
        "session.search_results[1].object_id": (
            "RegisterSession",
            registration(search_results=[{"object_id": "o"}, {"object_id": MARK}]),
        ),
        "session.search_meta": ("RegisterSession", registration(search_meta={"a": [MARK]})),
        "session.sort_by.field": ("RegisterSession", registration(sort_by={"field": MARK})),
        "events[0].meta": ("PushEvents", pb.PushEventsRequest(events=[{"event_id": "e", "meta": {MARK: 1}}])),
        "batch_id": ("GetBatch", pb.GetBatchRequest(batch_id=MARK)),
    }
    for path, (method, request) in requests.items():
        data = request.SerializeToString()
        filled = text.ljust(len(MARK), b"x")
        assert data != data.replace(MARK.encode(), filled)

        named = await invalid_paths(raw(channel, method, data.replace(MARK.encode(), filled)))

        assert [path] == [name[: len(path)] for name in named]


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "an object of 33 levels": (delimited(6, nested_struct(33)), "meta"),
    "an object of 34 levels": (delimited(6, nested_struct(34)), "meta"),
    "an object of 200 levels": (delimited(6, nested_struct(200)), "meta"),
    "text that is not UTF-8": (delimited(3, b"\xff"), "object_id"),
    "an id that is not UTF-8": (delimited(1, b"e\xed\xa0\x80"), "event_id"),
    "a time that ends early": (delimited(5, b"\x08"), "created_at"),
}
"""What makes an event such that no parser reads the whole request, and the field that is named."""


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_event_does_not_sink_the_rest(channel: grpc.aio.Channel, name: str) -> None:
    """An event that no parser reads is rejected at its place, by its id and field; the others are stored."""
    fault, path = UNREADABLE[name]
    good = [event_pb2.SessionEvent(event_id=name + end, session_id="s", object_id="o") for end in "ab"]
    first, last = (delimited(1, event.SerializeToString()) for event in good)
    bad = delimited(1, delimited(1, b"bad") + delimited(2, b"s") + fault)
    answer = pb.PushEventsResponse.FromString(await raw(channel, "PushEvents", first + bad + last))
    [failure] = answer.failures

    assert (2, 1, 1, "INVALID_FIELD") == (answer.inserted, answer.rejected, failure.index, failure.reason)
    assert ("" if path == "event_id" else "bad") == failure.id
    assert failure.message.startswith(path)


async def test_nul_is_named(stub: ClickstreamServiceStub) -> None:
    """Text with a NUL character is INVALID_ARGUMENT at its path."""
    assert ["session.session_id"] == await invalid_paths(stub.RegisterSession(registration(session_id="a\0b")))
    assert ["session.search_query"] == await invalid_paths(
        stub.RegisterSession(registration(search_query={"string_value": "a\0b"}))
    )
    assert ["batch_id"] == await invalid_paths(stub.GetBatch(pb.GetBatchRequest(batch_id="a\0b")))
    assert ["release_id"] == await invalid_paths(stub.ReleaseBatch(pb.ReleaseBatchRequest(release_id="a\0b")))


# --- nesting --------------------------------------------------------------------------------------------------------


def with_nested(place: str, struct: bytes) -> tuple[str, bytes]:
    """A method and a request with this struct at this place."""
    session_id = delimited(1, b"deep " + place.encode())
    if place == "events[0].meta":
        event = delimited(1, b"e") + delimited(2, b"deep") + delimited(3, b"o") + delimited(6, struct)
        return "PushEvents", delimited(1, event)
    inner = {
        "session.search_query": delimited(2, delimited(5, struct)),
        "session.search_results[0].meta": delimited(3, delimited(1, b"o") + delimited(3, struct)),
        "session.search_meta": delimited(4, struct),
        "session.payload_filter": delimited(5, struct),
    }[place]
    return "RegisterSession", delimited(1, session_id + inner)


PLACES = [
    "session.search_query",
    "session.search_results[0].meta",
    "session.search_meta",
    "session.payload_filter",
    "events[0].meta",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("levels", [33, 34, 40, 100, 1000])
@pytest.mark.parametrize("lists", [False, True], ids=["objects", "lists"])
async def test_too_deep_a_nesting_is_named(channel: grpc.aio.Channel, place: str, levels: int, *, lists: bool) -> None:
    """JSON nested deeper than 32 levels is INVALID_ARGUMENT at its path, however deep it is."""
    named = await invalid_paths(raw(channel, *with_nested(place, nested_struct(levels, lists=lists))))

    assert [place] == [name[: len(place)] for name in named]


@pytest.mark.parametrize("place", PLACES)
async def test_the_deepest_nesting_comes_back(
    channel: grpc.aio.Channel, wire_client: ClickstreamClient, place: str
) -> None:
    """JSON nested 32 levels deep is stored and read back, alone and in a stream."""
    method, data = with_nested(place, nested_struct(32))
    await raw(channel, method, data)
    if place == "events[0].meta":
        await wire_client.register_session(Session(session_id="deep"))
    found = await wire_client.get_session("deep" if place == "events[0].meta" else f"deep {place}")
    async with aclosing(wire_client.get_batch_sessions(found.batch_id)) as sessions:
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

    def lists(levels: int) -> Value:
        value: Any = []
        for _ in range(levels - 1):
            value = [value]
        return json_format.ParseDict(value, Value(), max_recursion_depth=200)

    await stub.RegisterSession(registration(session_id="lists", search_query=lists(32)))

    assert ["session.search_query"] == [
        name[:20] for name in await invalid_paths(stub.RegisterSession(registration(search_query=lists(33))))
    ]


# --- long paths -----------------------------------------------------------------------------------------------------


async def test_a_long_path_does_not_hide_the_error(stub: ClickstreamServiceStub) -> None:
    """However long and wide the keys around a bad value are, the answer has room to say which field is wrong."""
    keys = {str(number) + "\u4e16" * 2000: float("nan") for number in range(20)}
    bad = struct(Value())
    for _ in range(20):
        bad.fields["\U0001f600" * 300 + str(len(bad.fields))].CopyFrom(Value())
    events = [{"event_id": "e", "session_id": "s", "object_id": "o", "meta": bad} for _ in range(20)]

    named = await invalid_paths(stub.RegisterSession(registration(search_meta=keys)))
    rejected = await invalid_paths(stub.PushEvents(pb.PushEventsRequest(events=events)))

    assert ["session.search_meta"] == [name[:19] for name in named]
    assert rejected
    assert all(path.startswith("events[") for path in rejected)
