"""Protobuf messages -> checked BSON documents: what writers send. Pure; the opposite of `to_pb.py`.

One walk over a message makes its document and finds whether anything is wrong with it. If so, the models, which have
the same rules, say what and where (`wire.session_from_pb`). To make a model of each message would take most of the
server's time for it: an event takes 6 µs, and took 15. See docs/adr/0016-writes-without-a-model.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import isfinite
from typing import Any

from bson.decimal128 import Decimal128
from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from clickstream import wire
from clickstream.errors import InvalidField
from clickstream.models import DEFAULT_EVENT_TYPE, Money
from clickstream.v1 import event_pb2, session_pb2
from clickstream.values import INTEGER_MAX, JSON_DEPTH_MAX
from clickstream_server.canonical import canonical_event, canonical_session, content_hash, derived_event_id
from clickstream_server.limits import Limits, check_event, check_session
from clickstream_server.storage.mongo.documents import Document, event_key

_AMOUNT_KEPT_CHARS = 40
_NUL = b"\\u0000"
_SMALL_BYTES = 64 * 1024
"""Whatever a message of so many holds is soon looked at."""
_CONTAINERS = ("struct_value", "list_value")
_EARLIEST_S, _LATEST_S = -62_135_596_800, 253_402_300_799  # the years 1 to 9999


def session_document(message: session_pb2.Session, *, now_micros: int, limits: Limits) -> tuple[Document, int]:
    """The session's document, without number, and the size of its content in bytes. Raises InvalidField.

    `created_at` is missing in it where the client sent none.
    """
    if (count := len(message.search_results)) > limits.search_results_max:
        text = f"must be {limits.search_results_max} at most, not {count}"
        raise InvalidField.at("search_results", text)
    if message.ByteSize() > _SMALL_BYTES:
        jsons: list[Any] = [message.search_query, message.search_meta, message.payload_filter]
        jsons += [item.meta for item in message.search_results]
        if _has_more_values(jsons, limits.session_bytes_max):
            text = f"a session must have {limits.session_bytes_max} bytes as JSON at most, and this one has more"
            raise InvalidField.at("", text)
    try:
        document = _session(message)
    except (_Wrong, InvalidField, ValidationError):
        wire.session_from_pb(message)  # raises InvalidField, with all that is wrong and where it stands
        raise
    content = canonical_session(document)
    if _NUL in content:  # a NUL, or a backslash before "u0000"
        wire.session_from_pb(message)
    check_session(document, content=content, now_micros=now_micros, limits=limits)
    document["content_hash"] = content_hash(content)
    return document, len(content)


def event_document(
    message: event_pb2.SessionEvent, *, now_micros: int, limits: Limits, item_session_id: str = ""
) -> tuple[Document, int]:
    """The event's document and the size of its content in bytes. Raises InvalidField.

    What the client left to the server is filled in. `item_session_id`: the session of the item that it came in, which
    must be its own if it names one.
    """
    if message.ByteSize() > _SMALL_BYTES and _has_more_values([message.meta], limits.meta_bytes_max):
        raise InvalidField.at("meta", f"must have {limits.meta_bytes_max} bytes as JSON at most, and this has more")
    try:
        document = _event(message)
    except (_Wrong, InvalidField, ValidationError):
        wire.event_from_pb(message)  # raises InvalidField, with all that is wrong and where it stands
        raise
    key = document["_id"]
    if item_session_id and key["session_id"] != item_session_id:
        if key["session_id"]:
            wire.event_from_pb(message)
            raise InvalidField.at("session_id", "must be that of the item's session, or empty")
        key["session_id"] = item_session_id
    content = canonical_event(document)
    if _NUL in content or "\x00" in key["event_id"]:
        wire.event_from_pb(message)
    check_event(document, content=content, now_micros=now_micros, limits=limits)
    document["content_hash"] = hashed = content_hash(content)
    if not key["event_id"]:
        key["event_id"] = derived_event_id(hashed)
    if "created_at" not in document:
        document["created_at"] = now_micros
    return document, len(content)


def _has_more_values(jsons: list[Any], bytes_max: int) -> bool:
    """Whether these Structs and Values hold more values than so many bytes of JSON can: each takes two at least.

    Looked at before anything is made of them: of two million, which 8 MiB can hold, that took half a minute, in which
    nobody else was served.
    """
    left = bytes_max // 2
    pending = jsons
    while pending:
        found = pending.pop()
        if isinstance(found, struct_pb2.Value):
            kind = found.WhichOneof("kind")
            if kind not in _CONTAINERS:
                continue
            found = getattr(found, kind)
        if isinstance(found, struct_pb2.Struct):
            fields = found.fields
            inner: Any = (fields[key] for key in fields)
            left -= len(fields)
        else:
            inner = found.values
            left -= len(inner)
        if left < 0:
            return True
        pending += [value for value in inner if value.WhichOneof("kind") in _CONTAINERS]
    return False


class _Wrong(Exception):
    """Something is wrong with the message."""


def _session(message: session_pb2.Session) -> Document:
    has = message.HasField
    document: Document = {"_id": message.session_id}
    if has("created_at"):
        document["created_at"] = _micros(message.created_at)
    if has("search_query") and (query := _value(message.search_query, 1)) is not None:
        if not isinstance(query, str | dict | list):
            raise _Wrong
        document["search_query"] = query
    if results := _results(message.search_results):
        document["search_results"] = results
    for name in ("search_meta", "payload_filter"):
        if has(name) and (found := _struct(getattr(message, name), 1)):
            document[name] = found
    if has("sort_by"):
        document["sort_by"] = _sort_by(message.sort_by)
    if has("user_id"):
        document["user_id"] = message.user_id
    return document | {flag: True for flag in ("is_irrelevant", "is_payload_search") if getattr(message, flag)}


def _results(items: Iterable[session_pb2.SearchResultItem]) -> list[Document]:
    found = []
    for item in items:
        result: Document = {"object_id": item.object_id}
        if (rank := item.rank) or item.HasField("rank"):
            if not isfinite(rank):
                raise _Wrong
            result["rank"] = rank
        if item.HasField("meta") and (meta := _struct(item.meta, 1)):
            result["meta"] = meta
        found.append(result)
    return found


def _sort_by(message: session_pb2.SortBy) -> Document:
    return {
        "field": message.field,
        "order": wire.order_from_pb(message.order).value,
        "force_not_payload": message.force_not_payload,
    }


def _event(message: event_pb2.SessionEvent) -> Document:
    document: Document = {
        "_id": event_key(message.session_id, message.event_id),
        "event_type": message.event_type or DEFAULT_EVENT_TYPE,
    }
    if object_id := message.object_id:
        document["object_id"] = object_id
    has = message.HasField
    if has("created_at"):
        document["created_at"] = _micros(message.created_at)
    if fields := message.meta.fields:
        document["meta"] = {key: _value(fields[key], 2) for key in fields}
    if has("value"):
        value = message.value
        amount = _amount if len(value.amount) <= _AMOUNT_KEPT_CHARS else _amount.__wrapped__
        document["value"] = {"currency_code": value.currency_code, "amount": amount(value.amount)}
    return document


@lru_cache(maxsize=4096)
def _amount(text: str) -> Decimal128:
    """Prices come again and again, and to check and convert one takes 6 µs, as long as all of an event without."""
    return Decimal128(Money(currency_code="XXX", amount=text).amount)


def _micros(stamp: Timestamp) -> int:
    seconds, nanos = stamp.seconds, stamp.nanos
    if not _EARLIEST_S <= seconds <= _LATEST_S or not 0 <= nanos <= 999_999_999:
        raise _Wrong
    return seconds * 1_000_000 + nanos // 1000


def _struct(struct: struct_pb2.Struct, depth: int) -> Document:
    if depth > JSON_DEPTH_MAX:
        raise _Wrong
    fields = struct.fields  # its items() is the slow one of collections.abc
    return {key: _value(fields[key], depth + 1) for key in fields}


def _value(value: struct_pb2.Value, depth: int) -> Any:
    """The value; `depth` is the level that it would have as an object or a list."""
    if text := value.string_value:  # asking for the kind costs three times this
        return text
    if number := value.number_value:
        if not number.is_integer():
            if not isfinite(number):
                raise _Wrong
            return number
        return int(number) if -INTEGER_MAX <= number <= INTEGER_MAX else number
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct(value.struct_value, depth)
    if kind == "list_value":
        if depth > JSON_DEPTH_MAX:
            raise _Wrong
        return [_value(item, depth + 1) for item in value.list_value.values]
    if kind is None:
        raise _Wrong
    return _EMPTY[kind] if kind != "bool_value" else value.bool_value


_EMPTY = {"string_value": "", "number_value": 0, "null_value": None}
