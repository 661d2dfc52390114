"""What a killed server leaves open in the database holds nobody up for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from clickstream import PushResult, Session, SessionEvent
from clickstream_server.config import Settings
from clickstream_server.storage.mongo import transactions
from clickstream_server.storage.mongo.driver import APP_NAME, DriverName, close, connect, maybe_await
from harness import eventually, opened_dao


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_an_abandoned_transaction_is_ended(mongodb_uri: str, database: str, driver: str) -> None:
    """A registration gets past an open transaction on its batch that nobody goes on with, long before it expires."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, storage_timeout_s=30.0)
    async with opened_dao(mongodb_uri, settings) as dao, AsyncMongoClient(mongodb_uri, appname=APP_NAME) as other:
        batch_id = (await dao.register_session(Session(session_id="a"))).session.batch_id
        async with other.start_session() as session:
            await session.start_transaction()
            await other[database].batches.update_one({"_id": batch_id}, {"$inc": {"x": 1}}, session=session)

            assert 2 == (await dao.register_session(Session(session_id="b"))).session.session_number

            with pytest.raises(OperationFailure):
                await session.commit_transaction()


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_other_writes_get_past_an_abandoned_transaction(mongodb_uri: str, database: str, driver: str) -> None:
    """A session is marked, and events are pushed, although a transaction on them was left open."""
    settings = Settings(mongodb_database=database, mongodb_driver=driver, storage_timeout_s=30.0)
    event = SessionEvent(session_id="a", event_id="e", object_id="o")
    async with opened_dao(mongodb_uri, settings) as dao, AsyncMongoClient(mongodb_uri, appname=APP_NAME) as other:
        await dao.register_session(Session(session_id="a"))
        async with other.start_session() as session:
            await session.start_transaction()
            await other[database].sessions.update_one({"_id": "a"}, {"$set": {"x": 1}}, session=session)
            assert (await dao.mark_session_irrelevant("a")).session.is_irrelevant
        async with other.start_session() as session:
            await session.start_transaction()
            key = {"session_id": "a", "event_id": "e"}
            await other[database].events.insert_one({"_id": key}, session=session)
            assert PushResult(inserted=1) == await dao.push_events([event])


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_nobody_looks_for_abandoned_transactions_once_the_write_is_done(
    mongodb_uri: str, driver: DriverName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However close to its answer a look ends, none goes on after the write that it was for."""
    monkeypatch.setattr(transactions, "_ABANDONED_S", 0.0)
    client = connect(mongodb_uri, driver)
    await maybe_await(client.admin.command("ping"))

    def looking() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if "keep_ending" in str(task.get_coro())]

    async def nobody_looks() -> bool:
        return not looking()

    for number in range(600):
        async with transactions.past_abandoned(client):
            await asyncio.sleep(0.001 + number % 60 / 10_000)  # a write that takes as long
    try:
        await eventually(nobody_looks, "nobody looks", patience_s=5.0)
    finally:
        for task in looking():
            task.cancel()
        await close(client)
