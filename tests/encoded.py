"""protobuf's encoding by hand (protobuf.dev, «Encoding»): for requests that its own writer refuses to build."""

from __future__ import annotations

_BYTES = 2


def varint(number: int) -> bytes:
    out = bytearray()
    number &= 2**64 - 1
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tagged(number: int, kind: int, value: bytes) -> bytes:
    """A field of this number and wire type."""
    return varint(number << 3 | kind) + value


def delimited(number: int, content: bytes) -> bytes:
    """A field that is text, bytes or a message."""
    return tagged(number, _BYTES, varint(len(content)) + content)


def nested_struct(levels: int, *, lists: bool = False) -> bytes:
    """A Struct of so many objects in each other, two at least; or of one, and lists."""
    content = b""
    for _ in range(levels - 2):
        content = delimited(1, delimited(6, content)) if lists else _in_object(delimited(5, content))
    return _in_object(delimited(6 if lists else 5, content))


def _in_object(value: bytes) -> bytes:
    return delimited(1, delimited(1, b"a") + delimited(2, value))
