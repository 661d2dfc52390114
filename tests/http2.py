"""Frames of HTTP/2, for clients that do what no gRPC library would. See RFC 9113 and, for header fields, RFC 7541."""

from __future__ import annotations

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, HEADERS, RST, GOAWAY, WINDOW_UPDATE, CONTINUATION, DATA = 4, 6, 1, 3, 7, 8, 9, 0
END_HEADERS, END_STREAM = 4, 1
INITIAL_WINDOW_SIZE = 4
"""A setting."""
_WINDOW, _FRAME_BYTES_MAX = 65_535, 16_384
"""What counts until a setting says otherwise."""


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


async def stop_short(address: str, path: str, size: int) -> None:
    """Send a call's request of so many bytes, but for the last one, as fast as it is taken, until the call is ended."""
    reader, writer = await connected(address)
    try:
        writer.write(OPENED + frame(HEADERS, END_HEADERS, 1, headers(path)))
        writer.write(frame(DATA, 0, 1, b"\x00" + struct.pack(">I", size)))
        left, initial, room = size - 1, _WINDOW, {0: _WINDOW - 5, 1: _WINDOW - 5}
        while True:
            while part := min(left, _FRAME_BYTES_MAX, *room.values()):
                writer.write(frame(DATA, 0, 1, bytes(part)))
                left, room = left - part, {stream: found - part for stream, found in room.items()}
                await writer.drain()
            kind, flags, stream, payload = await next_frame(reader)
            if kind == RST or (kind == HEADERS and flags & END_STREAM):
                return
            if kind == WINDOW_UPDATE:
                room[stream] += int.from_bytes(payload)
            elif kind == SETTINGS:
                found = dict(struct.iter_unpack(">HI", payload)).get(INITIAL_WINDOW_SIZE, initial)
                room[1] += found - initial
                initial = found
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Read until the call that was opened first is answered: until headers come that end its stream."""
    while True:
        kind, flags, _, _ = await next_frame(reader)
        if kind == HEADERS and flags & END_STREAM:
            return
