"""The contract suite's backends: the storage on either driver, and either client through a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from pymongo import AsyncMongoClient
from synced import SyncedDao

from clickstream import ClickstreamDao, SyncClickstreamClient, TransferDao
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceStub
from clickstream_server.config import Settings
from harness import opened_dao, served

BACKENDS = ["motor", "pymongo", "client", "sync-client"]
SHARED = {"bad_input", "bounds", "import_conflicts", "import_dry_run", "import_rules", "unset", "values"}
"""Modules whose questions are answered by code that both clients share: the synchronous one is spared them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dao" in metafunc.fixturenames:
        spared = metafunc.module.__name__.removeprefix("test_") in SHARED
        metafunc.parametrize("dao", BACKENDS[:3] if spared else BACKENDS, indirect=True)


@pytest.fixture
async def dao(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamDao]:
    """An empty store behind the interface."""
    if request.param == "client":
        async with served(mongodb_uri, database) as client:
            yield client
    elif request.param == "sync-client":
        async with served(mongodb_uri, database) as client:
            with SyncClickstreamClient(client.target) as sync_client:
                yield SyncedDao(sync_client)
    else:
        settings = Settings(mongodb_database=database, mongodb_driver=request.param)
        async with opened_dao(mongodb_uri, settings) as opened:
            yield opened


@pytest.fixture
def transfer(dao: ClickstreamDao) -> TransferDao:
    """The same store as `dao`, behind the interface for bulk transfer."""
    assert isinstance(dao, TransferDao)
    return dao


@pytest.fixture
async def channel(mongodb_uri: str, database: str) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel to a real server with an empty store: for requests that the models would refuse to build."""
    async with served(mongodb_uri, database) as client, grpc.aio.insecure_channel(client.target) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    """The generated stub on that channel."""
    return ClickstreamServiceStub(channel)


@pytest.fixture
def bulk(channel: grpc.aio.Channel) -> Any:
    """The generated stub of the bulk service on that channel."""
    return TransferServiceStub(channel)


@pytest.fixture
async def contents(mongodb_uri: str, database: str) -> AsyncIterator[Any]:
    """Reads the whole database as it is."""
    async with AsyncMongoClient(mongodb_uri) as client:

        async def read() -> dict[str, list[dict[str, Any]]]:
            stored = client[database]
            return {
                name: [document async for document in stored[name].find().sort("_id")]
                for name in await stored.list_collection_names()
            }

        yield read
