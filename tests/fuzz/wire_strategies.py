"""Messages as bytes on the wire, made from descriptors: valid ones, nearly valid ones, and ones that are nothing."""

from __future__ import annotations

import struct
from typing import Any

from encoded import delimited, tagged, varint
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_DEEP_MAX = 45
_JSON = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
_LEVELS_MAX = 6

NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 4, 7, 100, 255, 10_000, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**64 - 1]
)
DOUBLES = st.sampled_from(
    [0.0, -0.0, 1.0, 0.1, -1.5, 1e308, 5e-324, 2.0**53 + 2, float("inf"), float("-inf"), float("nan")]
)
TEXTS = st.one_of(
    st.sampled_from([b"s1", b"s2", b"e1", b"click", b"EUR", b"12.50", b"", b" ", b"1e400", b"-0", b"x" * 257]),
    st.sampled_from(
        [b"\xff", b"\xed\xa0\x80", b"\x00", b"\xc0\x80", "ü\u202e😀".encode(), b"$ref", b"$id", b"a.b", b"$db"]
    ),
    st.text(max_size=12).map(lambda text: text.encode(errors="surrogatepass")),
    st.binary(max_size=12),
)


def _deep(levels: int) -> bytes:
    """A Value of so many lists in each other."""
    value = delimited(3, b"leaf")
    for _ in range(levels):
        value = delimited(6, delimited(1, value))
    return value


def _deep_struct(levels: int) -> bytes:
    return delimited(1, delimited(1, b"key") + delimited(2, _deep(levels - 1)))


@st.composite
def right(draw: st.DrawFn, field: FieldDescriptor, levels: int) -> bytes:
    """The field with a value of its type, which may still make no sense."""
    number = field.number
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if (
            field.message_type.full_name in {"google.protobuf.Struct", "google.protobuf.Value"}
            and draw(st.integers(0, 9)) == 0
        ):
            depth = draw(st.integers(1, _DEEP_MAX))
            made = _deep if field.message_type.name == "Value" else _deep_struct
            return delimited(number, made(depth))
        return delimited(number, draw(message(field.message_type, levels + 1)))
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return delimited(number, draw(TEXTS))
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return tagged(number, _FIXED64, struct.pack("<d", draw(DOUBLES)))
    return tagged(number, _VARINT, varint(draw(NUMBERS)))


@st.composite
def _wrong(draw: st.DrawFn, number: int) -> bytes:
    """A field that is not in the message, or has another type there."""
    kind = draw(st.sampled_from([_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32, 6, 7]))
    size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
    if kind == _BYTES:
        return delimited(number, draw(st.binary(max_size=8)))
    return tagged(number, kind, draw(st.binary(min_size=size, max_size=size)) if size else varint(draw(NUMBERS)))


@st.composite
def message(draw: st.DrawFn, descriptor: Descriptor, levels: int = 0) -> bytes:
    """A message of this type, most of its fields set as they are meant."""
    out = b""
    fields = list(descriptor.fields)
    if levels >= _LEVELS_MAX:
        fields = [field for field in fields if field.type != FieldDescriptor.TYPE_MESSAGE]
    for field in fields:
        often = draw(st.integers(0, 9))
        if often < (3 if descriptor.full_name in _JSON else 7):
            times = draw(st.integers(1, 3)) if field.is_repeated else 1
            out += b"".join(draw(right(field, levels)) for _ in range(times))
        elif often == 9 and draw(st.integers(0, 3)) == 0:
            out += draw(_wrong(draw(st.sampled_from([field.number, 99, 2**29 - 1]))))
    return out


@st.composite
def mutated(draw: st.DrawFn, made: st.SearchStrategy[bytes]) -> bytes:
    """What was made, often as it is, else with some bytes changed, left out or repeated."""
    data = bytearray(draw(made))
    how = draw(st.sampled_from(["as it is", "as it is", "changed", "cut off", "repeated", "noise"]))
    if how == "noise":
        return draw(st.binary(max_size=64))
    if not data or how == "as it is":
        return bytes(data)
    at = draw(st.integers(0, len(data) - 1))
    if how == "changed":
        for place in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
            data[place] = draw(st.integers(0, 255))
    elif how == "cut off":
        del data[at:]
    else:
        data[at:at] = data[: draw(st.integers(0, 64))]
    return bytes(data)


def requests_of(method: Any) -> st.SearchStrategy[list[bytes]]:
    """What a client may send in one call of this method: one request, or a stream of some."""
    one = mutated(message(method.input_type))
    return st.lists(one, min_size=1, max_size=4 if method.client_streaming else 1)
