"""Plain values -> messages, and moments and JSON values to and fro: pure functions, used by `clickstream.wire`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeVar

from google.protobuf import struct_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from clickstream.errors import InvalidField
from clickstream.values import BEYOND_EXACT, EPOCH, INTEGER_MAX, Path, path_text, text_fault

R = TypeVar("R", bound=Message)
Fields = dict[str, Any]
"""A message's fields as plain values and dicts, which the constructors take."""


def message_of(kind: type[R], **fields: Any) -> R:
    """A message with these fields (None: unset), or InvalidField for one that protobuf cannot hold."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        _check_text(name, value)
        try:
            kind(**{name: value})
        except (TypeError, ValueError):
            raise InvalidField.at(name, "has the wrong type or is out of range") from None
    return kind(**given)


def _check_text(name: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check_text(f"{name}[{place}]", item)
    elif isinstance(value, str) and (fault := text_fault(value)):
        raise InvalidField.at(name, fault)


def moment_fields(micros: int) -> Fields:
    """Microseconds since 1970 as the fields of a Timestamp."""
    seconds, rest = divmod(micros, 1_000_000)
    return {"seconds": seconds, "nanos": rest * 1000}


def optional_moment_fields(moment: datetime | None) -> Fields | None:
    if moment is None:
        return None
    since = moment - EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1000}


def moment_from_pb(message: Any, field: str) -> Any:
    """The field's moment cut to whole microseconds, or None if it is unset; a Timestamp has the years 1 to 9999."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    nanos = stamp.nanos
    if not 0 <= nanos <= 999_999_999:
        raise InvalidField.at(field, "must have between 0 and 999,999,999 nanos")
    try:
        return EPOCH + timedelta(0, stamp.seconds, nanos // 1000)
    except OverflowError:
        raise InvalidField.at(field, "must lie between the years 1 and 9999") from None


def value_to_pb(value: Any) -> struct_pb2.Value | None:
    if value is None:
        return None
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, dict):
        return struct_pb2.Value(struct_value=value)  # type: ignore[arg-type]  # it takes a plain dict
    return struct_pb2.Value(list_value=value)  # and a plain list


def write_moment(stamp: Timestamp, moment: datetime) -> None:
    since = moment - EPOCH
    stamp.seconds = since.days * 86_400 + since.seconds
    stamp.nanos = since.microseconds * 1000


def write_micros(stamp: Timestamp, micros: int) -> None:
    """Make an empty Timestamp this many microseconds since 1970."""
    stamp.seconds, rest = divmod(micros, 1_000_000)
    stamp.nanos = rest * 1000


def write_struct(struct: struct_pb2.Struct, values: dict[str, Any]) -> None:
    """Make an empty Struct this JSON object, as the models have them."""
    if not values:
        struct.SetInParent()
    fields = struct.fields
    for key, value in values.items():
        write_value(fields[key], value)


def write_value(target: struct_pb2.Value, value: Any) -> None:
    """Make an empty Value this JSON value, as the models have them.

    Raises ValueError for one that would be rounded, TypeError for one that is no JSON.
    """
    kind = type(value)
    if kind is str:
        target.string_value = value
    elif kind is float:
        target.number_value = value
    elif kind is int:
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise ValueError(BEYOND_EXACT)
        target.number_value = value
    elif kind is bool:
        target.bool_value = value
    elif value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif kind is dict:
        write_struct(target.struct_value, value)
    elif isinstance(value, list | tuple):
        target.list_value.SetInParent()
        for item in value:
            write_value(target.list_value.values.add(), item)
    else:
        target.number_value = _number(value)


def _number(value: Any) -> float:
    """A number of a derived type, such as BSON's Int64. protobuf would take a Decimal as well, and round it."""
    if not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} is no JSON")
    return value


def value_from_pb(value: struct_pb2.Value, path: Path) -> Any:
    if text := value.string_value:  # asking for the kind costs three times this
        return text
    if number := value.number_value:
        return int(number) if number.is_integer() and -INTEGER_MAX <= number <= INTEGER_MAX else number
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_from_pb(value.struct_value, path)
    if kind == "list_value":
        return [value_from_pb(item, (path, place)) for place, item in enumerate(value.list_value.values)]
    if kind == "bool_value":
        return value.bool_value
    if kind is None:
        raise InvalidField.at(path_text(path), "is a Value of no kind; null is null_value")
    return _EMPTY[kind]


_EMPTY = {"string_value": "", "number_value": 0, "null_value": None}


def struct_from_pb(struct: struct_pb2.Struct, path: Path) -> dict[str, Any]:
    fields = struct.fields  # its items() is the slow one of collections.abc
    return {key: value_from_pb(fields[key], (path, key)) for key in fields}
