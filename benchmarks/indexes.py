"""What each index costs whoever writes, and what the size of its pages does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pymongo import AsyncMongoClient

from benchmarks.bulk import ImportSessions
from benchmarks.contest import Contestant
from benchmarks.loads import check_stored
from benchmarks.system import System
from clickstream_server.storage.mongo.indexes import EVENTS, SESSIONS, ensure_indexes

_OF_SESSIONS = ("by_time", "by_user", "by_batch")
_USUAL_PAGES = "all indexes, in pages of 16 KiB"
_LEFT_OUT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "all indexes": {},
    _USUAL_PAGES: {},
    "without by_time": {SESSIONS: ["by_time"]},
    "without by_user": {SESSIONS: ["by_user"]},
    "without by_batch": {SESSIONS: ["by_batch"]},
    "without by_session": {EVENTS: ["by_session"]},
    "without all of these": {SESSIONS: _OF_SESSIONS, EVENTS: ["by_session"]},
}


class ImportByIndexes(ImportSessions):
    """As *direct* imports: by hand, so that what is seen is MongoDB's. Into collections that lack some indexes."""

    name = "import by hand, by indexes"
    items: ClassVar[int] = 50_000
    rounds: ClassVar[int] = 5
    marks = ()

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._databases = {name: system.database(name.replace(" ", "-")) for name in _LEFT_OUT}

    async def prepare(self, items: int, seed: int) -> None:
        await super().prepare(items, seed)
        async with AsyncMongoClient[dict[str, Any]](self.system.uri) as mongo:
            for name, database in self._databases.items():
                await mongo.drop_database(database.name)
                if name == _USUAL_PAGES:
                    for collection in (SESSIONS, EVENTS):
                        await mongo[database.name].create_collection(collection)
                await ensure_indexes(mongo[database.name])
                for collection, indexes in _LEFT_OUT[name].items():
                    for index in indexes:
                        await mongo[database.name][collection].drop_index(index)

    def contestants(self) -> list[Contestant]:
        return [
            Contestant(name, partial(self._direct, database), database=database)
            for name, database in self._databases.items()
        ]

    async def check(self, database: Any) -> None:
        check_stored(database.sessions, self._sessions)
        check_stored(database.events, self._events)
