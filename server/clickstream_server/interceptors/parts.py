"""Requests of many events, some of which cannot be parsed: those stand as their errors, and the others are read.

A parser gives up at the first text that is not UTF-8, and where JSON is nested too deeply. One bad event would sink all
that came with it, and a producer that sends them again would be refused for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from clickstream.errors import InvalidField
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer
from clickstream_server.interceptors.unreadable import Malformed, Search, unreadable
from clickstream_server.message_dao import ChunkParts, EventParts, ItemParts, SentEvents

M = TypeVar("M", bound=Message)
_ID_FIELDS: dict[type[Message], str] = {event_pb2.SessionEvent: "event_id", session_pb2.Session: "session_id"}


def in_parts(kind: type[Message], data: bytes) -> EventParts | ChunkParts | InvalidField:
    """A request that cannot be parsed as a whole: what can be read of it, or the error of all of it."""
    search = Search()
    try:
        if kind in (pb.PushEventsRequest, pb_transfer.StreamEventsRequest):
            return _events(kind, data, search)
        if kind is pb_transfer.ImportSessionsRequest:
            _, found = _split(kind, data, search, "config", "chunk")
            if found["chunk"] and not found["config"]:
                return _chunk(b"".join(found["chunk"]), search)
    except (Malformed, DecodeError):
        pass
    return _unreadable(kind, data, search)


def _events(kind: type[Message], data: bytes, search: Search) -> EventParts:
    rest, found = _split(kind, data, search, "events")
    return EventParts(getattr(kind.FromString(rest), "sequence", 0), _read_events(found["events"], search))


def _chunk(data: bytes, search: Search) -> ChunkParts:
    rest, found = _split(pb_transfer.ImportChunk, data, search, "items")
    items = [_item(item, search) for item in found["items"]]
    return ChunkParts(pb_transfer.ImportChunk.FromString(rest).sequence, items)


def _item(data: bytes, search: Search) -> pb_transfer.ImportItem | ItemParts:
    try:
        return pb_transfer.ImportItem.FromString(data)
    except DecodeError:
        pass
    try:
        _, found = _split(pb_transfer.ImportItem, data, search, "session", "events")
    except Malformed:
        return ItemParts(_unreadable(pb_transfer.ImportItem, data, search), ())
    # A message that is sent in pieces is all of them, laid end to end.
    session = _read(session_pb2.Session, b"".join(found["session"]), search) if found["session"] else None
    return ItemParts(session, _read_events(found["events"], search))


def _read_events(sent: Sequence[bytes], search: Search) -> SentEvents:
    return [_read(event_pb2.SessionEvent, event, search) for event in sent]


def _read(kind: type[M], data: bytes, search: Search) -> M | InvalidField:
    """The message, or the error that stands in for it."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return _unreadable(kind, data, search)


def _unreadable(kind: type[Message], data: bytes, search: Search) -> InvalidField:
    """The error, with the id of what it stands in for, as far as that can be read."""
    error = unreadable(kind.DESCRIPTOR, data, search)  # type: ignore[arg-type]  # two names of one class
    if name := _ID_FIELDS.get(kind):
        with suppress(Malformed, UnicodeDecodeError):
            _, found = _split(kind, data, search, name)
            error.item_id = found[name][-1].decode() if found[name] else ""
    return error


def _split(kind: type[Message], data: bytes, search: Search, *names: str) -> tuple[bytes, dict[str, list[bytes]]]:
    """The contents of these fields of a message, and all else of it. Raises Malformed."""
    wanted = {kind.DESCRIPTOR.fields_by_name[name].number: name for name in names}
    rest = bytearray()
    found: dict[str, list[bytes]] = {name: [] for name in names}
    for number, content, field in search.fields(data):
        if number in wanted and content is not None:
            found[wanted[number]].append(content)
        else:
            rest += field
    return bytes(rest), found
