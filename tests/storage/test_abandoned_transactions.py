"""What a killed server leaves open in the database holds nobody up for long."""

from __future__ import annotations

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from clickstream import PushResult, Session, SessionEvent
from clickstream_server.app import opened_dao
from clickstream_server.config import Settings
from clickstream_server.storage.mongo.driver import APP_NAME


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
