"""The one watch that wakes all readers who follow."""

from __future__ import annotations

import pytest
from pymongo import AsyncMongoClient

from clickstream_server.storage.mongo.driver import connect, maybe_await
from clickstream_server.storage.mongo.watcher import BatchWatcher
from harness import eventually


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_the_watch_survives_that_its_collection_is_replaced(mongodb_uri: str, database: str, driver: str) -> None:
    """Readers are woken by changes also after the collection was renamed away and back, as a restore does it."""
    client = connect(mongodb_uri, driver)
    watcher = BatchWatcher(client[database])
    async with AsyncMongoClient(mongodb_uri) as other, watcher.watch("b") as changed:
        batches = other[database].batches
        await batches.insert_one({"_id": "b"})

        async def woken() -> bool:
            changed.clear()
            await batches.update_one({"_id": "b"}, {"$inc": {"n": 1}}, upsert=True)
            return await changed.wait(0.2)

        await eventually(woken, "a change wakes the reader")
        await batches.rename("away")
        await other[database].away.rename("batches")
        watching = watcher._watching
        await eventually(woken, "a change wakes the reader again")

        assert watching is watcher._watching
        assert not watching.done()
    await watcher.close()
    await maybe_await(client.close())
