"""Frames of HTTP/2, for clients that do what no gRPC library would. See RFC 9113 and, for header fields, RFC 7541."""

from __future__ import annotations

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, HEADERS, RST, GOAWAY, WINDOW_UPDATE, CONTINUATION, DATA = 4, 6, 1, 3, 7, 8, 9, 0
END_HEADERS, END_STREAM = 4, 1
INITIAL_WINDOW_SIZE = 4
"""A setting."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame; see RFC 9113, 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def setting(name: int, value: int) -> bytes:
    """One setting, as a frame of its own."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", name, value))


def literal(name: str, value: str) -> bytes:
    """A header field without indexing; see RFC 7541, 6.2.2. Both are shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def headers(path: str = "/clickstream.v1.ClickstreamService/GetBatch") -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "a", "te": "trailers"}
    return b"".join(literal(*field) for field in (fields | {"content-type": "application/grpc"}).items())


OPENED = PREFACE + frame(SETTINGS, 0, 0)


async def connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to this address, on which nothing was said yet."""
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """The next frame's kind, flags, stream and payload."""
    head = await reader.readexactly(9)
    return head[3], head[4], int.from_bytes(head[5:]), await reader.readexactly(int.from_bytes(head[:3]))


async def ended(reader: asyncio.StreamReader) -> None:
    """Read until the call that was opened first is answered: until headers come that end its stream."""
    while True:
        kind, flags, _, _ = await next_frame(reader)
        if kind == HEADERS and flags & END_STREAM:
            return
