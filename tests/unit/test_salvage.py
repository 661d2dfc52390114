"""Requests that no parser takes as a whole: what is wrong and where, and what of them is kept."""

from __future__ import annotations

import pytest
from encoded import delimited, nested_struct
from google.protobuf.message import Message

from clickstream.errors import InvalidField
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer
from clickstream_server.interceptors.parse_error import parse_error
from clickstream_server.interceptors.salvage import salvaged
from clickstream_server.message_dao import ChunkParts, EventParts


def path_of(data: bytes, message: type = pb.RegisterSessionRequest) -> str:
    return parse_error(message.DESCRIPTOR, data).violations[0].path


def test_text_that_is_not_utf8_is_named() -> None:
    """A string field with a lone surrogate is named by its path, through repeated fields."""
    item = delimited(1, b"\xed\xa0\x80")
    good = session_pb2.SearchResultItem(object_id="o").SerializeToString()

    assert "session.search_results[1].object_id" == path_of(delimited(1, delimited(3, good) + delimited(3, item)))


def test_text_inside_json_is_named_by_its_field() -> None:
    """A broken text somewhere inside a Struct is named by the field that holds the Struct."""
    meta = delimited(1, delimited(1, b"key") + delimited(2, delimited(3, b"\xff")))

    assert "events[0].meta" == path_of(delimited(1, delimited(6, meta)), pb.PushEventsRequest)


def test_nesting_is_named() -> None:
    """JSON nested deeper than the limit is named by the field that holds it, whatever the depth."""
    assert {"session.search_meta"} == {
        path_of(delimited(1, delimited(1, b"s") + delimited(4, nested_struct(levels)))) for levels in (40, 100, 5000)
    }


def test_garbage_is_an_error_of_the_whole_request() -> None:
    """Bytes that are no message at all, or end early, are refused as such."""
    whole = pb.PushEventsRequest(events=[event_pb2.SessionEvent(event_id="e")]).SerializeToString()

    assert ["", ""] == [path_of(b"\xff\xff\xff\xff"), path_of(whole[:-1], pb.PushEventsRequest)]


def test_what_is_wrong_is_not_searched_without_end() -> None:
    """A fault behind a hundred thousand fields, which others would wait for, is told without its place."""
    fault = delimited(1, delimited(1, b"\xff"))
    few, many = (b"\x78\x01" * count for count in (1_000, 100_000))  # of field 15, which there is not

    assert ["events[0].event_id", ""] == [path_of(fields + fault, pb.PushEventsRequest) for fields in (few, many)]


def test_bad_events_are_not_searched_without_end() -> None:
    """Behind a hundred thousand fields an event that cannot be read is still told from those that can."""
    good = delimited(1, b"good")
    bad = delimited(1, b"bad") + b"\x78\x01" * 40_000 + delimited(3, b"\xff")
    found = salvaged(pb.PushEventsRequest, b"".join(delimited(1, event) for event in (bad, good, bad, good)), 4)

    assert isinstance(found, EventParts)
    first, second, third, fourth = found.events
    assert isinstance(first, InvalidField)
    assert isinstance(third, InvalidField)
    assert ["good", "good"] == [event.event_id for event in (second, fourth) if not isinstance(event, InvalidField)]
    assert [("object_id", "bad"), ("", "")] == [(error.violations[0].path, error.item_id) for error in (first, third)]


def test_one_bad_item_does_not_hide_the_others() -> None:
    """Behind an item whose fault is not found in time, what can be read of other bad items is read."""
    bad = b"\x78\x01" * 150_000 + delimited(1, b"\xff")
    items = [delimited(1, bad), delimited(1, delimited(1, b"\xff")) + delimited(2, delimited(1, b"good"))]
    chunk = delimited(2, b"".join(delimited(2, item) for item in items))
    found = salvaged(pb_transfer.ImportSessionsRequest, chunk, 2)

    assert isinstance(found, ChunkParts)
    _, second = found.items
    assert isinstance(second.session, InvalidField)
    assert ["good"] == [event.event_id for event in second.events if not isinstance(event, InvalidField)]


@pytest.mark.parametrize(("message", "number"), [(pb.PushEventsRequest, 1), (pb_transfer.StreamEventsRequest, 2)])
def test_too_many_bad_events_are_not_read(message: type[Message], number: int) -> None:
    """More events than a request may have are refused as a whole, without a look at each."""
    found = salvaged(message, delimited(number, b"\x07") * 3, 2)

    assert isinstance(found, InvalidField)
    assert ["events"] == [fault.path for fault in found.violations]


def test_too_many_items_of_bad_ones_are_not_read() -> None:
    """More items, or events in bad items, than a chunk may have are refused as a whole."""
    bad = delimited(2, delimited(1, b"\xff"))
    for items in ([bad] * 3, [bad * 2, bad]):
        chunk = delimited(2, b"".join(delimited(2, item) for item in items))
        found = salvaged(pb_transfer.ImportSessionsRequest, chunk, 2)

        assert isinstance(found, InvalidField)
        assert ["chunk.items"] == [fault.path for fault in found.violations]


def test_what_is_sent_in_pieces_is_kept_whole() -> None:
    """A chunk that is sent in pieces has the items of all, and a session the fields, as protobuf has it."""
    pieces = [delimited(1, delimited(1, b"s")), delimited(1, delimited(7, b"u")), delimited(2, delimited(1, b"\xff"))]
    good = delimited(1, delimited(1, b"first"))
    chunks = [delimited(2, delimited(2, item)) for item in (good, b"".join(pieces))]
    found = salvaged(pb_transfer.ImportSessionsRequest, b"".join(chunks), 2)

    assert isinstance(found, ChunkParts)
    first, second = found.items
    assert isinstance(first.session, session_pb2.Session)
    assert isinstance(second.session, session_pb2.Session)
    assert ["first", "s", "u"] == [first.session.session_id, second.session.session_id, second.session.user_id]
