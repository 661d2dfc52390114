"""Changes that a primary has made, but says that it could not make durable, since it steps down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import Session, SessionBatchStatus
from clickstream_server.config import Settings
from clickstream_server.embedded import EmbeddedMongo, find_mongod
from clickstream_server.storage.mongo.driver import APP_NAME
from harness import opened_dao

_INTERRUPTED = 11602


@pytest.fixture
async def uri(tmp_path: Path) -> AsyncIterator[str]:
    """A MongoDB that can be told to fail."""
    program = tmp_path / "mongod"
    program.write_text(f'#!/bin/sh\nexec "{find_mongod("")}" "$@" --setParameter enableTestCommands=1\n')
    program.chmod(0o755)
    mongod = EmbeddedMongo(tmp_path / "data", str(program))
    yield await mongod.start()
    await mongod.stop()


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_change_is_made_again_where_the_primary_steps_down(uri: str, driver: Any) -> None:
    """Whoever marks a session, releases a batch or sets its status has the answer of the second try, and no error."""
    settings = Settings(mongodb_driver=driver)
    async with opened_dao(uri, settings) as dao, AsyncMongoClient[Any](uri) as mongo:

        async def steps_down_once() -> None:
            fault = {"code": _INTERRUPTED, "errmsg": "it steps down"}
            data = {
                "failCommands": ["findAndModify", "update"],
                "appName": APP_NAME,
                "writeConcernError": fault,
                "errorLabels": ["RetryableWriteError"],
            }
            await mongo.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})

        batch_id = (await dao.register_session(Session(session_id="s"))).session.batch_id
        await steps_down_once()
        assert (await dao.mark_session_irrelevant("s")).session.is_irrelevant
        await steps_down_once()
        assert batch_id == (await dao.release_batch("r")).batch.batch_id
        await steps_down_once()
        status = SessionBatchStatus.COMPLETED
        assert status is (await dao.update_batch_status(batch_id, status)).status
