"""What several files share: a second server, and a server for the raw calls of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import grpc.aio
import pytest
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from harness import served


@pytest.fixture
async def other(mongodb_uri: str) -> AsyncIterator[ClickstreamClient]:
    """A server with another database, which is empty, and which nothing else happens to."""
    name = f"test_{uuid4().hex[:12]}"
    async with served(mongodb_uri, name) as found:
        yield found
    async with AsyncMongoClient(mongodb_uri) as mongo:
        await mongo.drop_database(name)


@pytest.fixture(scope="module")
async def wire_client(mongodb_uri: str) -> AsyncIterator[ClickstreamClient]:
    """A client of the server that all tests of a file call, so that no test may count on what is stored."""
    async with served(mongodb_uri, "test_wire") as client:
        yield client


@pytest.fixture(scope="module")
async def channel(wire_client: ClickstreamClient) -> AsyncIterator[grpc.aio.Channel]:
    """A bare connection to that server, over which messages of any size go."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(wire_client.target, options=options) as channel:
        yield channel


@pytest.fixture(scope="module")
async def stub(channel: grpc.aio.Channel) -> ClickstreamServiceStub:
    """The generated stub on that connection."""
    return ClickstreamServiceStub(channel)
