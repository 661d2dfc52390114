"""Bad input to the bulk service as raw requests: the right code and reason, and what was acknowledged before stays."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from clickstream import ClickstreamError, FieldViolation
from clickstream.call_errors import failure_of
from clickstream.v1 import clickstream_service_pb2 as pb_service
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as pb
from harness import PATIENCE_S

SERVICE = "/clickstream.v1.TransferService"
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
GARBAGE = b"\xff\xff\xff\xff"
MARK = b"spoil me"


class End(NamedTuple):
    """The answers that came, and what the stream ended with (None: well)."""

    answers: list[Any]
    error: ClickstreamError | None

    @property
    def status(self) -> tuple[grpc.StatusCode, str] | None:
        return None if self.error is None else (self.error.code, self.error.reason)

    @property
    def paths(self) -> list[str]:
        return [violation.path for violation in (self.error.violations if self.error else ())]


async def ended(call: Any) -> End:
    """Read a stream to its end."""
    answers = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for answer in call:
                answers.append(answer)
    except grpc.aio.AioRpcError as error:
        return End(answers, failure_of(error))
    return End(answers, None)


def raw(channel: grpc.aio.Channel, method: str, requests: Iterable[Any]) -> Any:
    """A call with these requests, messages or bytes, as they are."""

    def to_bytes(request: Any) -> bytes:
        return request if isinstance(request, bytes) else request.SerializeToString()

    answer = {"StreamEvents": pb.StreamEventsResponse, "ImportSessions": pb.ImportSessionsResponse}[method]
    call = channel.stream_stream(
        f"{SERVICE}/{method}", request_serializer=to_bytes, response_deserializer=answer.FromString
    )

    async def each() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return call(each(), timeout=PATIENCE_S)


def batch(sequence: int, *event_ids: str) -> pb.StreamEventsRequest:
    events = [event_pb2.SessionEvent(event_id=name, session_id="s", object_id="o") for name in event_ids]
    return pb.StreamEventsRequest(sequence=sequence, events=events)


def config(**fields: Any) -> pb.ImportSessionsRequest:
    return pb.ImportSessionsRequest(config=pb.ImportConfig(**{"import_id": "i", **fields}))


def chunk(sequence: int, *session_ids: str, events: int = 0) -> pb.ImportSessionsRequest:
    items = [
        pb.ImportItem(
            session=session_pb2.Session(session_id=name),
            events=[event_pb2.SessionEvent(event_id=str(number), object_id="o") for number in range(events)],
        )
        for name in session_ids
    ]
    return pb.ImportSessionsRequest(chunk=pb.ImportChunk(sequence=sequence, items=items))


async def is_stored(stub: Any, session_id: str) -> bool:
    try:
        await stub.GetSession(pb_service.GetSessionRequest(session_id=session_id), timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        assert grpc.StatusCode.NOT_FOUND is error.code()  # noqa: PT017
        return False
    return True


# --- StreamEvents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "path"),
    [
        pytest.param(batch(0, "b"), "sequence", id="zero"),
        pytest.param(batch(-5, "b"), "sequence", id="negative"),
        pytest.param(batch(7, "b"), "sequence", id="the same again"),
        pytest.param(batch(6, "b"), "sequence", id="falling"),
        pytest.param(batch(8, *["b"] * 10_001), "events", id="too many"),
        pytest.param(GARBAGE, "", id="garbage"),
    ],
)
async def test_a_broken_rule_ends_a_stream_of_events(
    channel: grpc.aio.Channel, stub: Any, last: Any, path: str
) -> None:
    """A request that breaks the stream's rules is INVALID_ARGUMENT, after everything before it is acknowledged."""
    end = await ended(raw(channel, "StreamEvents", [batch(7, "a"), last, batch(9, "c")]))
    await stub.RegisterSession(pb_service.RegisterSessionRequest(session=session_pb2.Session(session_id="s")))
    found = await stub.GetSession(pb_service.GetSessionRequest(session_id="s"))

    assert (INVALID, [path]) == (end.status, end.paths)
    assert [(7, 1)] == [(answer.acked_sequence, answer.inserted) for answer in end.answers]
    assert ["a"] == [event.event_id for event in found.session.events]


def spoilt(request: Any) -> bytes:
    """The request as bytes, each MARK in it replaced by what is not UTF-8, so that no parser reads it."""
    content = request.SerializeToString()
    assert MARK in content
    return bytes(content.replace(MARK, b"\xff" * len(MARK)))


async def test_an_unreadable_event_does_not_end_a_stream(channel: grpc.aio.Channel) -> None:
    """An event that no parser reads is rejected at its place; what came with it and after it is stored."""
    bad = batch(8, "b", "c")
    bad.events[0].object_id = MARK.decode()
    end = await ended(raw(channel, "StreamEvents", [batch(7, "a"), spoilt(bad), batch(9, "d")]))

    assert end.error is None
    assert [(7, 1, 0), (8, 1, 1), (9, 1, 0)] == [
        (answer.acked_sequence, answer.inserted, answer.rejected) for answer in end.answers
    ]
    assert [(0, "b", "object_id: must be valid UTF-8")] == [
        (failure.index, failure.id, failure.message) for failure in end.answers[1].failures
    ]


# --- ImportSessions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "path"),
    [
        pytest.param([], "config", id="no request"),
        pytest.param([chunk(1, "a")], "config", id="no config"),
        pytest.param([pb.ImportSessionsRequest()], "config", id="an empty request"),
        pytest.param([GARBAGE], "", id="garbage"),
        pytest.param([config(import_id="")], "config.import_id", id="no id"),
        pytest.param([config(import_id=" \t")], "config.import_id", id="a blank id"),
        pytest.param([config(import_id="x" * 257)], "config.import_id", id="a long id"),
        pytest.param([config(mode=99)], "config.mode", id="an unknown mode"),
        pytest.param([config(atomicity=-1)], "config.atomicity", id="an unknown atomicity"),
        pytest.param([config(max_failure_ratio=math.nan)], "config.max_failure_ratio", id="ratio NaN"),
        pytest.param([config(max_failure_ratio=-0.1)], "config.max_failure_ratio", id="ratio negative"),
        pytest.param([config(max_failure_ratio=2)], "config.max_failure_ratio", id="ratio 2"),
    ],
)
async def test_an_import_without_a_sound_config_stores_nothing(
    channel: grpc.aio.Channel, stub: Any, first: list[Any], path: str
) -> None:
    """An import whose first request is no sound config is INVALID_ARGUMENT, and is answered nothing else."""
    # No chunk behind it: grpc.aio may lose the status of a stream that ends while it is written to.
    end = await ended(raw(channel, "ImportSessions", first))

    assert (INVALID, [path], []) == (end.status, end.paths, end.answers)
    assert not await is_stored(stub, "a")


@pytest.mark.parametrize(
    ("last", "path"),
    [
        pytest.param(config(), "chunk", id="config twice"),
        pytest.param(pb.ImportSessionsRequest(), "chunk", id="an empty request"),
        pytest.param(chunk(0, "b"), "chunk.sequence", id="zero"),
        pytest.param(chunk(-1, "b"), "chunk.sequence", id="negative"),
        pytest.param(chunk(7, "b"), "chunk.sequence", id="the same again"),
        pytest.param(chunk(8, "b", events=10_001), "chunk.items", id="too many"),
        pytest.param(GARBAGE, "", id="garbage"),
    ],
)
async def test_a_broken_rule_ends_an_import(channel: grpc.aio.Channel, stub: Any, last: Any, path: str) -> None:
    """A request that breaks the import's rules is INVALID_ARGUMENT, after everything before it is acknowledged."""
    end = await ended(raw(channel, "ImportSessions", [config(), chunk(7, "a"), last, chunk(9, "c")]))

    assert (INVALID, [path]) == (end.status, end.paths)
    assert [7] == [answer.progress.acked_sequence for answer in end.answers]
    assert [True, False, False] == [await is_stored(stub, name) for name in "abc"]


async def test_bad_items_are_told_with_their_place(channel: grpc.aio.Channel, stub: Any) -> None:
    """Items that the models refuse to build are rejected one by one, with the whole path first, and short ids."""
    late = Timestamp(seconds=253_402_300_800)
    events = [
        event_pb2.SessionEvent(event_id="e", object_id="o", value=event_pb2.Money(currency_code="EUR", amount="1e5")),
        event_pb2.SessionEvent(event_id="e", session_id="x" * 257),
        event_pb2.SessionEvent(event_id="e", session_id="s", object_id="o", meta={"a": {"$ref": "b", "$db": None}}),
    ]
    items = [
        pb.ImportItem(session=session_pb2.Session(session_id="a", created_at=late)),
        pb.ImportItem(session=session_pb2.Session(session_id="x" * 5_000)),
        pb.ImportItem(session=session_pb2.Session(session_id="b", sort_by=session_pb2.SortBy(order=9))),
        pb.ImportItem(events=events),
        pb.ImportItem(session=session_pb2.Session(session_id="good")),
        pb.ImportItem(),
    ]
    requests = [
        config(max_failure_ratio=1),
        pb.ImportSessionsRequest(chunk=pb.ImportChunk(sequence=1, items=items)),
    ]
    end = await ended(raw(channel, "ImportSessions", requests))
    progress, summary = end.answers
    failures = progress.progress.failures

    assert end.error is None
    assert [
        (0, "session.created_at:"),
        (1, "session.session_id:"),
        (2, "session.sort_by.order:"),
        (3, "events[0].value.amount:"),
        (3, "events[1].session_id:"),
        (3, "events[2]:"),
    ] == [(failure.index, failure.message.split(" ")[0]) for failure in failures]
    assert all(len(failure.id) <= 256 for failure in failures)
    assert (6, 1, 3) == (
        summary.summary.processed,
        summary.summary.sessions.inserted,
        summary.summary.sessions.rejected,
    )
    assert await is_stored(stub, "good")


@pytest.mark.parametrize("atomicity", [pb.IMPORT_ATOMICITY_PER_ITEM, pb.IMPORT_ATOMICITY_PER_SESSION])
async def test_unreadable_items_do_not_end_an_import(channel: grpc.aio.Channel, stub: Any, atomicity: int) -> None:
    """What no parser reads of an item is rejected at its place, and what is to fall with it; the rest is stored."""
    bad = chunk(8, "no session", "no event", "no query", "good", events=2)
    items = bad.chunk.items
    items[0].session.user_id = MARK.decode()
    items[1].events[1].object_id = MARK.decode()
    items[2].session.search_query.struct_value.update({MARK.decode(): 1})
    sent = [config(max_failure_ratio=1, atomicity=atomicity), chunk(7, "a"), spoilt(bad), chunk(9, "c")]
    end = await ended(raw(channel, "ImportSessions", sent))
    failures = [failure for failure in end.answers[1].progress.failures if failure.reason == "INVALID_FIELD"]
    together = atomicity == pb.IMPORT_ATOMICITY_PER_SESSION

    assert end.error is None
    assert [
        (1, "no session", "session.user_id: must be valid UTF-8"),
        (2, "1", "events[1].object_id: must be valid UTF-8"),
        (3, "no query", "session.search_query: must be valid UTF-8"),
    ] == [(failure.index, failure.id, failure.message) for failure in failures]
    assert (6, 3 if together else 4, 3 if together else 2) == (
        end.answers[-1].summary.processed,
        end.answers[-1].summary.sessions.inserted,
        end.answers[-1].summary.sessions.rejected,
    )
    assert (2 if together else 7) == end.answers[-1].summary.events.inserted
    assert [False, not together, False, True, True] == [
        await is_stored(stub, name) for name in ("no session", "no event", "no query", "good", "c")
    ]


# --- ExportSessions -------------------------------------------------------------------------------------------------

ODD = {"seconds": 0, "nanos": -1}
EXPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "negative limit": ({"limit": -1}, "limit"),
    "negative events_limit": ({"events_limit": -1}, "events_limit"),
    "odd created_from": ({"filter": {"created_from": ODD}}, "filter.created_from"),
    "created_to past the calendar": ({"filter": {"created_to": {"seconds": 2**40}}}, "filter.created_to"),
    "too many ids": ({"filter": {"session_ids": ["s"] * 10_001}}, "filter.session_ids"),
    "too many types": ({"filter": {"event_types": ["t"] * 1_001}}, "filter.event_types"),
    "a long batch id": ({"filter": {"batch_id": "x" * 20_000}}, "filter.batch_id"),
    "a blank batch id": ({"filter": {"batch_id": " "}}, "filter.batch_id"),
    "a long user": ({"filter": {"user_id": "x" * 257}}, "filter.user_id"),
    "a blank user": ({"filter": {"user_id": " "}}, "filter.user_id"),
    "a user with NUL": ({"filter": {"user_id": "a\0"}}, "filter.user_id"),
    "a long session id": ({"filter": {"session_ids": ["s", "x" * 257]}}, "filter.session_ids[1]"),
    "an empty session id": ({"filter": {"session_ids": ["s", ""]}}, "filter.session_ids[1]"),
    "a blank session id": ({"filter": {"session_ids": [" "]}}, "filter.session_ids[0]"),
    "a long event type": ({"filter": {"event_types": ["click", "x" * 65]}}, "filter.event_types[1]"),
    "an empty event type": ({"filter": {"event_types": ["purchase", ""]}}, "filter.event_types[1]"),
    "a blank event type": ({"filter": {"event_types": [" "]}}, "filter.event_types[0]"),
    "an event type with NUL": ({"filter": {"event_types": ["a\0"]}}, "filter.event_types[0]"),
    "a token of garbage": ({"resume_token": "no token"}, "resume_token"),
    "a token beyond ASCII": ({"resume_token": "größe"}, "resume_token"),
    "a token of other JSON": ({"resume_token": base64.urlsafe_b64encode(b"[1]").decode()}, "resume_token"),
    "a token that is nested": ({"resume_token": base64.urlsafe_b64encode(b"[" * 100_000).decode()}, "resume_token"),
}


@pytest.mark.parametrize("name", EXPORTS)
async def test_a_bad_export_is_refused(bulk: Any, name: str) -> None:
    """A request that cannot be exported is INVALID_ARGUMENT and names the field."""
    fields, path = EXPORTS[name]
    end = await ended(bulk.ExportSessions(pb.ExportSessionsRequest(**fields), timeout=PATIENCE_S))

    assert (INVALID, [path], []) == (end.status, end.paths, end.answers)


async def test_an_export_of_garbage_is_refused(channel: grpc.aio.Channel) -> None:
    """Bytes that are no request are INVALID_ARGUMENT."""
    end = await ended(channel.unary_stream(f"{SERVICE}/ExportSessions")(GARBAGE, timeout=PATIENCE_S))

    assert INVALID == end.status
    assert isinstance(end.error, ClickstreamError)
    assert isinstance(end.error.violations[0], FieldViolation)


FORGED: dict[str, dict[str, Any]] = {
    "position missing": {"position": [1]},
    "position of another kind": {"position": 5},
    "position empty": {"position": []},
    "position an object": {"position": {"a": 1}},
    "position past 64 bits": {"position": [2**70, "s"]},
    "position a query": {"position": [{"$gt": 1}, "s"]},
    "position no Unicode": {"position": [1, "\ud800"]},
    "sessions no number": {"sessions": "many"},
    "sessions nothing": {"sessions": None},
    "sessions past 64 bits": {"sessions": 2**64},
    "sessions nearly past 64 bits": {"sessions": 2**63 - 1},
    "sessions negative": {"sessions": -1},
    "events no number": {"events": [1]},
    "digest short": {"digest": "00"},
    "digest no text": {"digest": 5},
    "totals no list": {"totals": 5},
    "total not a number": {"totals": [["EUR", "sNaN"]]},
    "total endless": {"totals": [["EUR", "Infinity"]]},
    "total too large to be written": {"totals": [["EUR", "1E+1000000"]]},
    "total too small to be written": {"totals": [["EUR", "1E-1000000"]]},
    "currency no text": {"totals": [[1, "1"]]},
    "currency no Unicode": {"totals": [["\ud800", "1"]]},
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_is_refused(bulk: Any, stub: Any, name: str) -> None:
    """A token that fits its filter and holds nonsense otherwise is INVALID_ARGUMENT, never INTERNAL."""
    for session_id in "ab":
        await stub.RegisterSession(
            pb_service.RegisterSessionRequest(session=session_pb2.Session(session_id=session_id))
        )
    good = await ended(bulk.ExportSessions(pb.ExportSessionsRequest(limit=1), timeout=PATIENCE_S))
    content = json.loads(base64.urlsafe_b64decode(good.answers[-1].resume_token)) | FORGED[name]
    token = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    end = await ended(bulk.ExportSessions(pb.ExportSessionsRequest(resume_token=token), timeout=PATIENCE_S))

    assert (INVALID, ["resume_token"]) == (end.status, end.paths)
