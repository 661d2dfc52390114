"""The collections and indexes that a server makes when it starts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import Session
from clickstream_server.storage.mongo import indexes, readiness
from clickstream_server.storage.mongo.indexes import EVENTS, INDEXES, SESSIONS, ensure_indexes, missing
from harness import eventually, served


async def pages_of(database: Any, collection: str, option: str = "leaf_page_max") -> dict[str, str]:
    """An option of the storage of each index: the most that a page has, if no other is asked for."""
    stats = await database.command("collStats", collection, indexDetails=True)
    made = {name: index["creationString"] for name, index in stats["indexDetails"].items()}
    return {name: re.findall(f"{option}=([^,]+)", options)[-1] for name, options in made.items()}


@pytest.mark.parametrize("collection", [SESSIONS, EVENTS])
async def test_indexes_have_small_pages(mongodb_uri: str, database: str, collection: str) -> None:
    """All indexes of sessions and events have pages of 4 KiB, the one of `_id` as well, and take in long keys."""
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await ensure_indexes(mongo[database])
        found = await pages_of(mongo[database], collection)
        keys = await pages_of(mongo[database], collection, "leaf_key_max")

    assert {"_id_", *(index.document["name"] for index in INDEXES[collection])} == found.keys()
    assert {"4KB"} == set(found.values())
    assert {"1500"} == set(keys.values())


async def test_what_is_dropped_under_a_server_is_made_again(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who drops the database under a running server to begin anew gets its collections and indexes back."""
    monkeypatch.setattr(readiness, "_MEND_EVERY_S", 0.05)
    async with served(mongodb_uri, database) as client, AsyncMongoClient[Any](mongodb_uri) as mongo:
        await client.register_session(Session(session_id="a"))
        await mongo.drop_database(database)

        async def mended() -> bool:
            return not await missing(mongo[database])

        await eventually(mended, "all indexes are there")
        again = await client.register_session(Session(session_id="a"))
        pages = await pages_of(mongo[database], SESSIONS)

    assert 1 == again.session.session_number
    assert {"4KB"} == set(pages.values())


async def test_what_was_made_with_other_pages_stays(mongodb_uri: str, database: str) -> None:
    """A collection that is there already keeps the pages that it has; starting on it is no error."""
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await mongo[database].create_collection(EVENTS)
        await ensure_indexes(mongo[database])
        await ensure_indexes(mongo[database])
        found = await pages_of(mongo[database], EVENTS)

    assert {"_id_": "16k", "by_session": "16k"} == found


async def test_long_ids_stand_in_the_pages(mongodb_uri: str, database: str) -> None:
    """Keys of the longest ids that the contract takes get no blocks of their own, 4 KiB for each."""
    key = {"session_id": "s" * 256, "event_id": "e" * 252}
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await ensure_indexes(mongo[database])
        events = [{"_id": key | {"event_id": f"{key['event_id']}{n:04}"}, "created_at": n} for n in range(200)]
        await mongo[database][EVENTS].insert_many(events)
        await mongo.admin.command("fsync")  # it tells what it has written
        stats = await mongo[database].command("collStats", EVENTS, indexDetails=True)
    written = {name: index["reconciliation"] for name, index in stats["indexDetails"].items()}

    assert {"_id_", "by_session"} == written.keys()
    assert {0} == {found["leaf-page overflow keys"] for found in written.values()}


@pytest.mark.parametrize("engine", [{"another": {}}, {"wiredTiger": {"configString": "unknown=1"}}])
async def test_another_storage_engine_has_its_own_pages(
    mongodb_uri: str,
    database: str,
    engine: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where MongoDB does not take the size of pages, the collections are made without it, and the log says so."""
    monkeypatch.setattr(indexes, "_OPTIONS", {EVENTS: {"indexOptionDefaults": {"storageEngine": engine}}})
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await ensure_indexes(mongo[database])
        found = await mongo[database][EVENTS].index_information()

    assert {"_id_", "by_session"} == found.keys()
    assert ["MongoDB does not let events have small pages for its indexes"] == caplog.messages
