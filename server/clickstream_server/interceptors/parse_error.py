"""Why a request cannot be parsed. The parser only says that it cannot; this names the field."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from clickstream.errors import InvalidField
from clickstream.values import JSON_DEPTH_MAX
from clickstream_server.interceptors.wire_format import FieldReader, Malformed, TooManyFields

_STRUCT_TYPES = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
_CONTAINER_TYPES = {"google.protobuf.Struct", "google.protobuf.ListValue"}
_NOT_PROTOBUF = "is not a protobuf message of this type"
_UNKNOWN = f"what was sent {_NOT_PROTOBUF}, holds text that is not UTF-8, or is nested too deeply"


class _Field(NamedTuple):
    """A field that may be what cannot be read: text (`message` None) or a message.

    `in_json`: a step inside of JSON, which is no field of ours.
    """

    name: str
    message: Descriptor | None
    repeated: bool
    in_json: bool
    deepens: bool

    def path(self, outer: str, counts: Counter[str]) -> str:
        """Its path, where `counts` have how many came before it in the same message."""
        if self.in_json:
            return outer
        name = self.name
        if self.repeated:
            name = f"{name}[{counts[name]}]"
            counts[self.name] += 1
        return f"{outer}.{name}" if outer else name


def parse_error(descriptor: Descriptor, data: bytes, reader: FieldReader | None = None) -> InvalidField:
    """The error that says what is wrong with bytes that could not be parsed as this message, and where, if that is soon
    found. `reader`: that of the request, where this is a part of one.
    """
    pending: list[tuple[Descriptor, bytes, str, int]] = [(descriptor, data, "", 0)]
    reader = reader or FieldReader()
    while pending:
        kind, content, path, depth = pending.pop()
        known = _fields_of(kind)
        counts: Counter[str] = Counter()
        try:
            for number, value, _ in reader.fields(content):
                field = known.get(number)
                if field is None or value is None:
                    continue
                inner = field.path(path, counts)
                if field.message is not None:
                    deeper = depth + field.deepens
                    if deeper > JSON_DEPTH_MAX:
                        return InvalidField.at(inner, f"must not be nested deeper than {JSON_DEPTH_MAX} levels")
                    pending.append((field.message, value, inner, deeper))
                elif not _is_utf8(value):
                    return InvalidField.at(inner, "must be valid UTF-8")
        except TooManyFields:
            break
        except Malformed:
            return InvalidField.at(path, _NOT_PROTOBUF)
    return InvalidField.at("", _UNKNOWN)


@cache
def _fields_of(kind: Descriptor) -> dict[int, _Field]:
    """Those of its fields that may be what cannot be read, by number; kept, as to ask takes 8 µs for each."""
    in_json = kind.full_name in _STRUCT_TYPES or kind.GetOptions().map_entry
    return {
        field.number: _Field(
            field.name,
            field.message_type,
            field.is_repeated,
            in_json,
            field.message_type is not None and field.message_type.full_name in _CONTAINER_TYPES,
        )
        for field in kind.fields
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
    }


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
