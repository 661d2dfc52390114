"""Protobuf's wire format, field by field, for messages that no parser takes as a whole.

See protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
"""The wire types; groups (3 and 4) are not used in proto3."""
_FIELDS_MAX = 100_000
"""So many are looked at, which takes up to a third of a second, in which nobody else is served."""


class Malformed(Exception):
    """The bytes end early or hold an unknown wire type."""


class TooManyFields(Exception):
    """There are more fields than may be looked at."""


class FieldReader:
    """Reads the fields of messages, `_FIELDS_MAX` of them in all: one reader for what belongs to one request."""

    def __init__(self) -> None:
        self._left = _FIELDS_MAX

    def fields(self, data: bytes) -> Iterator[tuple[int, bytes | None, slice]]:
        """The fields of one message: number, content where it is length-delimited, and where in `data` they stand.

        Raises Malformed and TooManyFields.
        """
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise TooManyFields
            number, content, end = _field(data, at)
            yield number, content, slice(at, end)
            at = end


def _field(data: bytes, at: int) -> tuple[int, bytes | None, int]:
    """The field that begins there: its number, its content where it is length-delimited, and where it ends."""
    tag, at = _varint(data, at)
    wire_type = tag & 7
    content = None
    if wire_type == _VARINT:
        _, at = _varint(data, at)
    elif wire_type in (_I64, _I32):
        at += 8 if wire_type == _I64 else 4
    elif wire_type == _LEN:
        size, at = _varint(data, at)
        content = data[at : at + size]
        at += size
    else:
        raise Malformed
    if at > len(data):
        raise Malformed
    return tag >> 3, content, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
