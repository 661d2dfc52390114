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
    """A session is marked, events are pushed and a batch is released, although a transaction on them was left open."""
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
        async with other.start_session() as session:
            await session.start_transaction()
            await other[database].batches.update_one({}, {"$inc": {"x": 1}}, session=session)
            assert not (await dao.release_batch("r")).already_released


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_another_programs_transaction_is_left_alone(
    mongodb_uri: str, database: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open transaction of another program on the same database is waited for, and not ended."""
    looks = 0
    look = transactions._end_abandoned

    async def counted(client: Any) -> None:
        nonlocal looks
        await look(client)
        looks += 1

    async def looked() -> bool:
        return looks >= 3

    monkeypatch.setattr(transactions, "_ABANDONED_S", 0.1)
    monkeypatch.setattr(transactions, "_end_abandoned", counted)
    settings = Settings(mongodb_database=database, mongodb_driver=driver)
    async with opened_dao(mongodb_uri, settings) as dao, AsyncMongoClient(mongodb_uri, appname="another") as other:
        await dao.register_session(Session(session_id="a"))
        async with other.start_session() as session:
            await session.start_transaction()
            await other[database].batches.update_one({}, {"$inc": {"x": 1}}, session=session)
            registering = asyncio.create_task(dao.register_session(Session(session_id="b")))
            await eventually(looked, "open transactions were looked for, long after this one was heard of")
            await session.commit_transaction()

        assert 2 == (await registering).session.session_number


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_transaction_that_goes_on_is_left_alone(mongodb_uri: str, database: str, driver: DriverName) -> None:
    """A transaction of another server of ours that was heard of a moment ago is not ended."""
    client = connect(mongodb_uri, driver)
    async with AsyncMongoClient(mongodb_uri, appname=APP_NAME) as other, other.start_session() as session:
        await other[database].batches.insert_one({"_id": "b"})
        await session.start_transaction()
        await other[database].batches.update_one({"_id": "b"}, {"$set": {"x": 1}}, session=session)
        await transactions._end_abandoned(client)
        await session.commit_transaction()
    await close(client)


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
