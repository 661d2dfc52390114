"""Changes that a primary has made, but says that it could not make durable, since it steps down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import PushResult, Session, SessionBatchStatus, SessionEvent, StorageUnavailable, WriteOutcome
from clickstream_server.config import Settings
from clickstream_server.embedded import EmbeddedMongo, find_mongod
from clickstream_server.storage.mongo.driver import APP_NAME
from harness import opened_dao

_INTERRUPTED = 11602
_NOT_IN_TIME = 64


@pytest.fixture
async def uri(tmp_path: Path) -> AsyncIterator[str]:
    """A MongoDB that can be told to fail."""
    program = tmp_path / "mongod"
    program.write_text(f'#!/bin/sh\nexec "{find_mongod("")}" "$@" --setParameter enableTestCommands=1\n')
    program.chmod(0o755)
    mongod = EmbeddedMongo(tmp_path / "data", str(program))
    yield await mongod.start()
    await mongod.stop()


async def fails_once(mongo: AsyncMongoClient[Any], commands: list[str], code: int, *labels: str) -> None:
    """Have MongoDB do the next of these commands, and say with this code that it could not make it durable."""
    fault = {"code": code, "errmsg": "it is not on a majority"}
    data = {"failCommands": commands, "appName": APP_NAME, "writeConcernError": fault, "errorLabels": labels}
    await mongo.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_change_is_made_again_where_the_primary_steps_down(uri: str, driver: Any) -> None:
    """Whoever marks a session, releases a batch or sets its status has the answer of the second try, and no error."""
    settings = Settings(mongodb_driver=driver)
    async with opened_dao(uri, settings) as dao, AsyncMongoClient[Any](uri) as mongo:

        async def steps_down_once() -> None:
            await fails_once(mongo, ["findAndModify", "update"], _INTERRUPTED, "RetryableWriteError")

        batch_id = (await dao.register_session(Session(session_id="s"))).session.batch_id
        await steps_down_once()
        assert (await dao.mark_session_irrelevant("s")).session.is_irrelevant
        await steps_down_once()
        assert batch_id == (await dao.release_batch("r")).batch.batch_id
        await steps_down_once()
        status = SessionBatchStatus.COMPLETED
        assert status is (await dao.update_batch_status(batch_id, status)).status


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_what_is_not_durable_is_not_told_as_stored(uri: str, driver: Any) -> None:
    """Events that MongoDB wrote and could not make durable in time are told as stored by the next try, and not before.

    So it is, too, where some of them were known.
    """
    known, new = (SessionEvent(session_id="s", event_id=name, object_id="o") for name in ("known", "new"))
    async with opened_dao(uri, Settings(mongodb_driver=driver)) as dao, AsyncMongoClient[Any](uri) as mongo:
        await dao.push_events([known])
        for events in ([known, new], [new]):
            await fails_once(mongo, ["insert"], _NOT_IN_TIME)
            with pytest.raises(StorageUnavailable):
                await dao.push_events(events)

        assert PushResult(duplicates=2) == await dao.push_events([known, new])


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_commit_of_unknown_outcome_is_made_again(uri: str, driver: Any) -> None:
    """A registration whose commit MongoDB could not make durable in time is told as it was made, and made once."""
    async with opened_dao(uri, Settings(mongodb_driver=driver)) as dao, AsyncMongoClient[Any](uri) as mongo:
        await fails_once(mongo, ["commitTransaction"], _NOT_IN_TIME)
        done = await dao.register_session(Session(session_id="s"))

        assert (WriteOutcome.INSERTED, 1) == (done.outcome, done.session.session_number)
        assert 2 == (await dao.register_session(Session(session_id="t"))).session.session_number
