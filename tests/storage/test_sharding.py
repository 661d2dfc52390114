"""A sharded cluster takes the collections as docs/deployment.md says.

There is no mongos here. What `sh.shardCollection` comes to in the end is a command to a shard, which checks the rules;
so a real config server and a real shard are asked by that command.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bson.binary import Binary
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from clickstream_server.embedded import _with_libcurl, find_mongod
from clickstream_server.storage.mongo.indexes import BATCHES, EVENTS, INDEXES, SESSIONS, ensure_indexes
from harness import PATIENCE_S, eventually, free_address

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
DATABASE = "clickstream"
DURABLE = {"w": "majority", "wtimeout": int(PATIENCE_S * 1000)}
INVALID_OPTIONS = 72
RANGED = {SESSIONS: {"_id": 1}, EVENTS: {"_id.session_id": 1}}
HASHED = {SESSIONS: {"_id": "hashed"}, EVENTS: {"_id.session_id": "hashed"}}


@asynccontextmanager
async def member(folder: Path, role: str) -> AsyncIterator[tuple[AsyncMongoClient, str]]:
    """A replica set of one mongod with this role in a cluster: a client of it, and its address as the cluster's."""
    address = free_address()
    folder.mkdir()  # noqa: ASYNC240  # nothing else runs yet
    process = await asyncio.create_subprocess_exec(
        *(str(find_mongod("")), f"--{role}", "--replSet", role, "--dbpath", str(folder), "--logpath", f"{folder}/log"),
        *("--bind_ip", "127.0.0.1", "--port", address.rpartition(":")[2], "--wiredTigerCacheSizeGB", "0.25"),
        stdout=asyncio.subprocess.DEVNULL,
        env=_with_libcurl(folder),
    )
    try:
        async with AsyncMongoClient(f"mongodb://{address}/?directConnection=true") as client:
            config = {"_id": role, "members": [{"_id": 0, "host": address}]}
            await client.admin.command("replSetInitiate", config | ({"configsvr": True} if role == "configsvr" else {}))

            async def is_primary() -> bool:
                return bool((await client.admin.command("hello"))["isWritablePrimary"])

            await eventually(is_primary, f"the {role} is primary")
            yield client, f"{role}/{address}"
    finally:
        process.kill()
        await process.wait()


class Cluster:
    """A shard with our collections and indexes, in a cluster that knows their database."""

    def __init__(self, shard: AsyncMongoClient, version: dict[str, Any]) -> None:
        self.database = shard[DATABASE]
        self._version = version

    async def shard(self, collection: str, key: dict[str, Any]) -> None:
        """What `sh.shardCollection` ends in."""
        await self.database.command(
            {
                "_shardsvrCreateCollection": collection,
                "shardKey": key,
                "unique": False,
                "databaseVersion": self._version,
                "writeConcern": DURABLE,
            }
        )

    async def indexes(self, collection: str) -> set[str]:
        return {index["name"] async for index in await self.database[collection].list_indexes()}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        (config, _), (shard, address) = [
            await stack.enter_async_context(member(tmp_path / role, role)) for role in ("configsvr", "shardsvr")
        ]
        added = await config.admin.command({"_configsvrAddShard": address, "writeConcern": DURABLE})
        await config.admin.command(
            {"_configsvrCreateDatabase": DATABASE, "primaryShardId": added["shardAdded"], "writeConcern": DURABLE}
        )
        await ensure_indexes(shard[DATABASE])
        found = await config.config.databases.with_options(
            codec_options=config.codec_options.with_options(uuid_representation=4)
        ).find_one({"_id": DATABASE})
        assert found is not None
        version = found["version"]
        yield Cluster(shard, version | {"uuid": Binary.from_uuid(version["uuid"])})


@pytest.mark.parametrize("keys", [RANGED, HASHED], ids=["ranged", "hashed"])
async def test_sessions_and_events_can_be_sharded(cluster: Cluster, keys: dict[str, dict[str, Any]]) -> None:
    """MongoDB takes the shard keys of the page; ranged ones need no index that is not there already."""
    for name, key in keys.items():
        before = await cluster.indexes(name)
        await cluster.shard(name, key)

        assert {"_id_", *(index.document["name"] for index in INDEXES[name])} == before
        if keys is RANGED:
            assert before == await cluster.indexes(name)


async def test_batches_cannot_be_sharded(cluster: Cluster) -> None:
    """That one batch at most collects is a unique index, which a shard could keep for itself only: MongoDB refuses."""
    for key in ({"_id": 1}, {"_id": "hashed"}):
        with pytest.raises(OperationFailure, match="Uniqueness can't be maintained") as raised:
            await cluster.shard(BATCHES, key)

        assert INVALID_OPTIONS == raised.value.code


def test_an_id_lives_on_one_shard() -> None:
    """Every shard key is made of the document's own id: so equal ids meet, and MongoDB keeps them unique."""
    assert all(field.split(".")[0] == "_id" for key in (*RANGED.values(), *HASHED.values()) for field in key)


def test_the_page_has_these_shard_keys() -> None:
    """The commands of docs/deployment.md are those that were tried."""
    commands = re.findall(
        r"sh\.shardCollection\('clickstream\.(\w+)', \{ '?([\w.]+)'?: (1|'hashed') \}\)", PAGE.read_text()
    )
    page = [{name: {field: 1 if kind == "1" else "hashed"}} for name, field, kind in commands]

    assert [{name: key} for keys in (RANGED, HASHED) for name, key in keys.items()] == page
