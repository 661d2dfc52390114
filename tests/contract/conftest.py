"""The contract suite's three backends: the storage on either driver, and the client through a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clickstream import ClickstreamDao
from clickstream_server.app import opened_dao
from clickstream_server.config import Settings
from harness import served


@pytest.fixture(params=["motor", "pymongo", "client"])
async def dao(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamDao]:
    """An empty store behind the interface."""
    if request.param == "client":
        async with served(mongodb_uri, database) as client:
            yield client
    else:
        settings = Settings(mongodb_database=database, mongodb_driver=request.param)
        async with opened_dao(mongodb_uri, settings) as opened:
            yield opened
