"""A second server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient
from harness import served


@pytest.fixture
async def other(mongodb_uri: str) -> AsyncIterator[ClickstreamClient]:
    """A server with another database, which is empty, and which nothing else happens to."""
    name = f"test_{uuid4().hex[:12]}"
    async with served(mongodb_uri, name) as found:
        yield found
    async with AsyncMongoClient(mongodb_uri) as mongo:
        await mongo.drop_database(name)
