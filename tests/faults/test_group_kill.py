"""MongoDB is killed while groups of pushes and of reads are under way."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import get_args

import pytest

from clickstream import Session, SessionEvent, Unavailable
from clickstream_server.config import Settings
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import DriverName
from harness import PATIENCE_S, eventually, mongod_pid, opened_dao

WRITERS, PUSHES, EVENTS = 30, 25, 3


class Writer:
    """Pushes to a session of its own, looks at it after each push, and repeats what fails."""

    def __init__(self, dao: MongoClickstreamDao, name: str) -> None:
        self._dao = dao
        self.name = name
        self.stored = 0

    async def run(self) -> None:
        for push in range(PUSHES):
            await self._push([f"{push:02}-{number}" for number in range(EVENTS)])
            self.stored += EVENTS
            await self._look()

    async def _push(self, names: list[str]) -> None:
        events = [SessionEvent(session_id=self.name, event_id=name, object_id="o") for name in names]
        tries = 0
        while True:
            try:
                told = await self._dao.push_events(events)
            except Unavailable:
                tries += 1
                await asyncio.sleep(0.05)
                continue
            assert EVENTS == told.inserted + told.duplicates, told
            assert tries or told.inserted == EVENTS, told
            return

    async def _look(self) -> None:
        while True:
            try:
                found = await self._dao.get_session(self.name)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            assert found is not None
            assert self.stored == found.event_count == len(found.events)
            return


@pytest.mark.parametrize("driver", get_args(DriverName))
async def test_what_groups_were_told_holds(tmp_path: Path, driver: DriverName) -> None:
    """What a push in a group was told as stored is there, once, and is read, though MongoDB is killed in the middle."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    settings = Settings(mongodb_database="groups", mongodb_driver=driver, storage_timeout_s=2.0)
    try:
        async with opened_dao(uri, settings) as dao, asyncio.timeout(4 * PATIENCE_S):
            writers = [Writer(dao, f"s{number}") for number in range(WRITERS)]
            await asyncio.gather(*(dao.register_session(Session(session_id=writer.name)) for writer in writers))
            writing = asyncio.gather(*(writer.run() for writer in writers))

            async def under_way() -> bool:
                return sum(writer.stored for writer in writers) > WRITERS * PUSHES * EVENTS / 4

            await eventually(under_way, "a quarter is stored")
            os.kill(mongod_pid(tmp_path), signal.SIGKILL)  # it is started again
            assert not writing.done()
            await writing
            found = [await dao.get_session(writer.name, events_limit=None) for writer in writers]
    finally:
        await mongo.stop()

    assert [PUSHES * EVENTS] * WRITERS == [one.event_count for one in found if one]
