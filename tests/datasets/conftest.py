"""One server process for all tests here, and a client for what a test reads from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from made import RELEASE_ID, SESSIONS, fill
from pymongo import AsyncMongoClient

from clickstream import SyncClickstreamClient
from harness import ServerProcess


@pytest.fixture(scope="session")
async def server(mongodb_uri: str) -> AsyncIterator[ServerProcess]:
    """A server with a released batch; a process of its own, since the clients here block this one's event loop."""
    database = f"datasets_{uuid4().hex[:12]}"
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    with SyncClickstreamClient(process.address) as client:
        await asyncio.to_thread(fill, client, range(1, SESSIONS + 1))
        await asyncio.to_thread(client.release_batch, RELEASE_ID)
    yield process
    await process.stop()
    async with AsyncMongoClient(mongodb_uri) as mongo:
        await mongo.drop_database(database)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[SyncClickstreamClient]:
    with SyncClickstreamClient(server.address) as opened:
        yield opened


@pytest.fixture
def batch_id(client: SyncClickstreamClient) -> str:
    """The released batch, which no test changes."""
    return client.release_batch(RELEASE_ID).batch.batch_id


@pytest.fixture
async def own_server(mongodb_uri: str, database: str) -> AsyncIterator[ServerProcess]:
    """A server that holds nothing, for a test that writes."""
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    yield process
    await process.kill()


@pytest.fixture
def own_client(own_server: ServerProcess) -> Iterator[SyncClickstreamClient]:
    with SyncClickstreamClient(own_server.address) as opened:
        yield opened
