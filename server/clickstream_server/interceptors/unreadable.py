"""Why a request cannot be parsed. The parser only says that it cannot; this names the field."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from clickstream.errors import InvalidField
from clickstream.values import JSON_DEPTH_MAX

_STRUCT_TYPES = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
_CONTAINER_TYPES = {"google.protobuf.Struct", "google.protobuf.ListValue"}
_NOT_PROTOBUF = "is not a protobuf message of this type"


class _Malformed(Exception):
    """The bytes end early or hold an unknown wire type."""


def unreadable(descriptor: Descriptor, data: bytes) -> InvalidField:
    """The error that says what is wrong with bytes that could not be parsed as this message."""
    pending: list[tuple[Any, bytes, str, int]] = [(descriptor, data, "", 0)]
    while pending:
        kind, content, path, depth = pending.pop()
        counts: dict[int, int] = {}
        try:
            for number, value in _fields(content):
                field = kind.fields_by_number.get(number)
                if field is None or value is None:
                    continue
                inner = _inner_path(path, field, counts)
                if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(value):
                    return InvalidField.at(inner, "must be valid UTF-8")
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    deeper = depth + (field.message_type.full_name in _CONTAINER_TYPES)
                    if deeper > JSON_DEPTH_MAX:
                        return InvalidField.at(inner, f"must not be nested deeper than {JSON_DEPTH_MAX} levels")
                    pending.append((field.message_type, value, inner, deeper))
        except _Malformed:
            return InvalidField.at(path, _NOT_PROTOBUF)
    return InvalidField.at("", f"the request {_NOT_PROTOBUF}, or is nested too deeply")


def _inner_path(path: str, field: Any, counts: dict[int, int]) -> str:
    if field.containing_type.full_name in _STRUCT_TYPES or field.containing_type.GetOptions().map_entry:
        return path  # the steps inside JSON are not fields of ours
    place = counts.get(field.number, 0)
    counts[field.number] = place + 1
    name = f"{field.name}[{place}]" if field.is_repeated else field.name
    return f"{path}.{name}" if path else name


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(data: bytes) -> list[tuple[int, bytes | None]]:
    """The fields of one message: number and, where it is length-delimited, the bytes. See protobuf.dev, «Encoding»."""
    fields: list[tuple[int, bytes | None]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value = None
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(data, at)
            value = data[at : at + size]
            at += size
        else:
            raise _Malformed
        if at > len(data):
            raise _Malformed
        fields.append((tag >> 3, value))
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Malformed
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
