"""What the tests of storage share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clickstream_server.config import Settings
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from harness import opened_dao


@pytest.fixture(params=["motor", "pymongo"])
async def dao(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> AsyncIterator[MongoClickstreamDao]:
    settings = Settings(mongodb_database=database, mongodb_driver=request.param)
    async with opened_dao(mongodb_uri, settings) as opened:
        yield opened
