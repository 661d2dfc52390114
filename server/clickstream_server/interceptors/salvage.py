"""Requests of many events, some of which cannot be parsed: each of these becomes its error, and the others are kept.

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
from clickstream_server.interceptors.parse_error import parse_error
from clickstream_server.interceptors.wire_format import FieldReader, Malformed, TooManyFields
from clickstream_server.message_dao import ChunkParts, EventParts, ItemParts, SentEvents

M = TypeVar("M", bound=Message)
_ID_FIELDS: dict[type[Message], str] = {event_pb2.SessionEvent: "event_id", session_pb2.Session: "session_id"}


def salvaged(kind: type[Message], data: bytes, events_max: int) -> EventParts | ChunkParts | InvalidField:
    """What can be parsed of a request that cannot be as a whole; or the error to answer it with.

    `events_max`: with more events, or items of an import, it is refused before any of them is parsed.
    """
    salvage = _Salvage(events_max)
    try:
        if kind in (pb.PushEventsRequest, pb_transfer.StreamEventsRequest):
            return salvage.events_of(kind, data)
        if kind is pb_transfer.ImportSessionsRequest:
            return salvage.chunk_of(data)
    except InvalidField as error:
        return error
    except (Malformed, TooManyFields, DecodeError):
        pass
    return salvage.error_of(kind, data)


class _Salvage:
    """Takes one request apart, in bounded time: one reader splits it, another finds what is wrong with parts of it.

    So the search for one fault may use up all that there is for that, and the other parts are found all the same.
    """

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._events = 0
        self._splitting = FieldReader()
        self._diagnosing = FieldReader()

    def events_of(self, kind: type[Message], data: bytes) -> EventParts:
        rest, found = _split(kind, data, self._splitting, "events")
        return EventParts(getattr(kind.FromString(rest), "sequence", 0), self._read_events(found["events"], "events"))

    def chunk_of(self, data: bytes) -> ChunkParts:
        """The chunk of a request of ImportSessions. Raises Malformed, too, if it has none."""
        _, found = _split(pb_transfer.ImportSessionsRequest, data, self._splitting, "config", "chunk")
        if found["config"] or not found["chunk"]:
            raise Malformed
        # A message that is sent in pieces is all of them, laid end to end.
        rest, found = _split(pb_transfer.ImportChunk, b"".join(found["chunk"]), self._splitting, "items")
        self._check_count("chunk.items", len(found["items"]))
        items = [self._item(item) for item in found["items"]]
        return ChunkParts(pb_transfer.ImportChunk.FromString(rest).sequence, items)

    def _item(self, data: bytes) -> pb_transfer.ImportItem | ItemParts:
        try:
            return pb_transfer.ImportItem.FromString(data)
        except DecodeError:
            pass
        try:
            _, found = _split(pb_transfer.ImportItem, data, self._splitting, "session", "events")
        except Malformed:
            return ItemParts(self.error_of(pb_transfer.ImportItem, data), ())
        session = self._read(session_pb2.Session, b"".join(found["session"])) if found["session"] else None
        return ItemParts(session, self._read_events(found["events"], "chunk.items"))

    def _read_events(self, sent: Sequence[bytes], path: str) -> SentEvents:
        self._events += len(sent)
        self._check_count(path, self._events)
        return [self._read(event_pb2.SessionEvent, event) for event in sent]

    def _check_count(self, path: str, count: int) -> None:
        if count > self._events_max:
            raise InvalidField.at(path, f"must be {self._events_max} at most, not {count}")

    def _read(self, kind: type[M], data: bytes) -> M | InvalidField:
        """The message, or the error that stands in for it."""
        try:
            return kind.FromString(data)
        except DecodeError:
            return self.error_of(kind, data)

    def error_of(self, kind: type[Message], data: bytes) -> InvalidField:
        """The error, with the id of what it stands in for, as far as that is soon found."""
        error = parse_error(kind.DESCRIPTOR, data, self._diagnosing)  # type: ignore[arg-type]  # two names of one class
        if name := _ID_FIELDS.get(kind):
            with suppress(Malformed, TooManyFields, UnicodeDecodeError):
                _, found = _split(kind, data, self._diagnosing, name)
                error.item_id = found[name][-1].decode() if found[name] else ""
        return error


def _split(kind: type[Message], data: bytes, reader: FieldReader, *names: str) -> tuple[bytes, dict[str, list[bytes]]]:
    """The contents of these fields of a message, and all else of it. Raises Malformed and TooManyFields."""
    wanted = {kind.DESCRIPTOR.fields_by_name[name].number: name for name in names}
    rest = bytearray()
    found: dict[str, list[bytes]] = {name: [] for name in names}
    for number, content, span in reader.fields(data):
        if number in wanted and content is not None:
            found[wanted[number]].append(content)
        else:
            rest += data[span]
    return bytes(rest), found
