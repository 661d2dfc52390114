"""One mongod for each test process; a database of its own for each test; and no test leaves a server behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient
from clickstream_server.embedded import EmbeddedMongo
from harness import ServerProcess, served

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """Whatever server processes a test has started end with it, also if it failed."""
    before = set(ServerProcess.alive)
    yield
    async with AsyncExitStack() as stack:  # all, though one of them may be in trouble
        for server in ServerProcess.alive - before:
            stack.push_async_callback(server.kill)


@pytest.fixture(scope="session")
async def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URI of a real one-member replica set that this test process has for itself."""
    mongod = EmbeddedMongo(tmp_path_factory.mktemp("mongod"))
    yield await mongod.start()
    await mongod.stop()


@pytest.fixture
async def database(mongodb_uri: str) -> AsyncIterator[str]:
    """The name of a database that is empty now and dropped afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    yield name
    async with AsyncMongoClient(mongodb_uri) as client:
        # A server that was killed may have left a transaction open, which would hold up the drop for a minute.
        await client.admin.command("killAllSessions", [])
        await client.drop_database(name)


@pytest.fixture
async def client(mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamClient]:
    """A client of a server in this process, on this test's database."""
    async with served(mongodb_uri, database) as found:
        yield found


@pytest.fixture
async def server(mongodb_uri: str, database: str) -> AsyncIterator[ServerProcess]:
    """A server as a process of its own, on this test's database."""
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    yield process
    await process.stop()


@pytest.fixture(scope="session")
def shared_log() -> Path:
    """A real search log in UBI form; tests that need it are skipped where it is missing."""
    path = Path(__file__).parents[2] / "shared" / "data" / "ubi" / "ubi_queries_events.ndjson"
    if not path.is_file():
        pytest.skip(f"needs the real search log {path.name}, which is not part of the project")
    return path
