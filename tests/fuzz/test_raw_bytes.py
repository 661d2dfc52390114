"""Any bytes on the socket, in whole and in part: the server goes on answering others, and costs bounded memory."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OPENED,
    PING,
    PREFACE,
    RST,
    SETTINGS,
    WINDOW_UPDATE,
    connected,
    ended,
    frame,
    headers,
    literal,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_messages import EXAMPLES

from clickstream import ClickstreamClient
from harness import PATIENCE_S, ServerProcess, rss_bytes

MIB = 1024 * 1024


CALL = frame(HEADERS, END_HEADERS, 1, headers())
MESSAGE = b"\x00" + struct.pack(">I", 3) + b"\x0a\x01b"

ATTACKS = {
    "nothing": b"",
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1 without an end": b"POST / HTTP/1.1\r\nX: " + b"a" * 100_000,
    "TLS": bytes.fromhex("16030100c8010000c40303") + os.urandom(193),
    "noise": os.urandom(4096),
    "half a preface": PREFACE[:10],
    "noise after the preface": PREFACE + os.urandom(4096),
    "half a frame": OPENED + CALL[:20],
    "headers without an end": OPENED + frame(HEADERS, 0, 1, headers()),
    "a flood of continuations": OPENED
    + frame(HEADERS, 0, 1, headers())
    + frame(CONTINUATION, 0, 1, literal("x", "y" * 100) * 100) * 200,
    "large headers": OPENED + frame(HEADERS, END_HEADERS, 1, headers() + literal("x", "y" * 100) * 150),
    "headers that make no sense": OPENED + frame(HEADERS, END_HEADERS, 1, b"\xff" * 64),
    "no path": OPENED + frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(":method", "POST")),
    "data before headers": OPENED + frame(DATA, 0, 1, MESSAGE),
    "a frame larger than is allowed": OPENED + CALL + frame(DATA, 0, 1, b"\x00" * (2**24 - 1)),
    "a message that says it has 4 GiB": OPENED + CALL + frame(DATA, 0, 1, b"\x00\xff\xff\xff\xff" + b"x" * 1000),
    "a message that ends early": OPENED + CALL + frame(DATA, END_STREAM, 1, MESSAGE[:-1]),
    "a message said to be compressed": OPENED + CALL + frame(DATA, END_STREAM, 1, b"\x01" + MESSAGE[1:]),
    "opened and reset, a thousand times": OPENED
    + b"".join(
        frame(HEADERS, END_HEADERS, stream, headers()) + frame(RST, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 2001, 2)
    ),
    "more streams than are allowed": OPENED
    + b"".join(frame(HEADERS, END_HEADERS, stream, headers()) for stream in range(1, 4001, 2)),
    "a flood of pings": OPENED + frame(PING, 0, 0, b"12345678") * 10_000,
    "a flood of settings": OPENED + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)) * 10_000,
    "settings that are not allowed": OPENED + frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
    "a window too wide": OPENED + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 2,
    "goodbye": OPENED + frame(GOAWAY, 0, 0, b"\x00" * 8) + CALL,
}


@pytest.fixture(scope="module")
async def server(mongodb_uri: str) -> AsyncIterator[ServerProcess]:
    found = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database="test_raw_bytes")
    yield found
    assert 0 == await found.stop()
    assert "Traceback" not in found.errors


@pytest.fixture(scope="module")
async def client(server: ServerProcess) -> AsyncIterator[ClickstreamClient]:
    async with ClickstreamClient(server.address, deadline_s=PATIENCE_S) as client:
        yield client


async def attack(server: ServerProcess, client: ClickstreamClient, data: bytes) -> None:
    """Send this over a connection of its own; while that is still open the server answers others."""
    reader, writer = await connected(server.address)
    try:
        with suppress(ConnectionError):
            writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
        await client.list_batches(page_size=1)
        reader.feed_eof()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("name", ATTACKS)
async def test_bytes_that_are_no_call_harm_nobody(server: ServerProcess, client: ClickstreamClient, name: str) -> None:
    """What a hostile or mistaken client sends leaves the server answering others, in bounded memory."""
    before = rss_bytes(server.pid)
    for _ in range(3):
        await attack(server, client, ATTACKS[name])

    assert rss_bytes(server.pid) - before < 200 * MIB


FRAMES = st.builds(
    frame,
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
    stream=st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1]),
    payload=st.one_of(st.binary(max_size=40), st.just(headers()), st.just(MESSAGE)),
)


@settings(
    deadline=None,
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(frames=st.lists(st.one_of(FRAMES, st.just(CALL), st.binary(max_size=20)), max_size=8))
async def test_any_frames_harm_nobody(server: ServerProcess, client: ClickstreamClient, frames: list[bytes]) -> None:
    """Any sequence of frames and bytes on a connection leaves the server answering others."""
    await attack(server, client, OPENED + b"".join(frames))


async def test_a_byte_at_a_time_harms_nobody(server: ServerProcess, client: ClickstreamClient) -> None:
    """Two hundred clients that send a call byte by byte keep nobody out; whoever goes on long enough is answered."""
    data = OPENED + CALL + frame(DATA, END_STREAM, 1, MESSAGE)
    connections = [await connected(server.address) for _ in range(200)]
    before = rss_bytes(server.pid)
    for place in range(len(data)):
        for _, writer in connections:
            writer.write(data[place : place + 1])
        if place % 40 == 0:
            await client.list_batches(page_size=1)
    for reader, writer in connections:
        async with asyncio.timeout(PATIENCE_S):
            await ended(reader)
        writer.close()

    assert rss_bytes(server.pid) - before < 100 * MIB


async def test_thousands_of_connections_harm_nobody(server: ServerProcess, client: ClickstreamClient) -> None:
    """Two thousand idle connections cost bounded memory; calls and health are answered meanwhile."""
    before = rss_bytes(server.pid)
    connections = []
    for _ in range(2_000):
        connections.append(await connected(server.address))
        connections[-1][1].write(OPENED)
    async with grpc.aio.insecure_channel(server.address) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    await client.list_batches(page_size=1)
    grown = rss_bytes(server.pid) - before
    for _, writer in connections:
        writer.close()

    assert grown < 300 * MIB
