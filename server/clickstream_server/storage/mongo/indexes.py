"""What collections and indexes there are, and why. Made in one explicit step when a server starts.

Unique keys are shard-ready: a session's key is its id, an event's begins with its session's id.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import CollectionInvalid, OperationFailure

from clickstream_server.storage.mongo.errors import domain_error

SESSIONS = "sessions"
EVENTS = "events"
BATCHES = "batches"
_log = logging.getLogger(__name__)
_NAMESPACE_EXISTS = 48
_SMALL_PAGES: dict[str, Any] = {
    "indexOptionDefaults": {"storageEngine": {"wiredTiger": {"configString": "leaf_page_max=4KB,leaf_key_max=1500"}}}
}
"""Ids come in no order, so each key goes to another page: with MongoDB's own pages of 16 KiB four times as much is read
into its cache, and pushed out of it, for one. Keys as long as in those do not get pages of their own. See
docs/adr/0021-small-pages-of-indexes.md.
"""
_OPTIONS = {SESSIONS: _SMALL_PAGES, EVENTS: _SMALL_PAGES}

INDEXES: dict[str, list[IndexModel]] = {
    SESSIONS: [
        # Exports of everything, or of a span of time, in the order of time.
        IndexModel([("created_at", ASCENDING), ("_id", ASCENDING)], name="by_time"),
        # Exports of one user.
        IndexModel([("user_id", ASCENDING), ("created_at", ASCENDING), ("_id", ASCENDING)], name="by_user"),
        # A batch in the order of its numbers. Not unique: the group commit sees to that, and a unique index would have
        # to be the shard key.
        IndexModel([("batch_id", ASCENDING), ("session_number", ASCENDING)], name="by_batch"),
    ],
    EVENTS: [
        # The events of many sessions, each in its order, in one query without a sort; counts without the documents.
        IndexModel(
            [("_id.session_id", ASCENDING), ("created_at", ASCENDING), ("_id.event_id", ASCENDING)], name="by_session"
        ),
    ],
    BATCHES: [
        # One batch at most collects.
        IndexModel(
            [("status", ASCENDING)],
            name="one_collects",
            unique=True,
            partialFilterExpression={"status": "COLLECTING"},
        ),
        # A release key releases one batch.
        IndexModel(
            [("release_id", ASCENDING)],
            name="by_release",
            unique=True,
            partialFilterExpression={"release_id": {"$exists": True}},
        ),
        # All batches, newest first.
        IndexModel([("created_at", DESCENDING), ("_id", DESCENDING)], name="newest"),
        # The batches of some statuses, newest first.
        IndexModel([("status", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)], name="newest_by_status"),
    ],
}

_OF_OURS = {SESSIONS: "content_hash", EVENTS: "content_hash", BATCHES: "session_counter"}
"""A field that all documents of ours have."""


async def foreign(database: Any) -> list[str]:
    """The collections that another program has filled, going by the first document of each."""
    found = []
    for name, of_ours in _OF_OURS.items():
        first = await database[name].find_one({}, {of_ours: True})
        if first is not None and of_ours not in first:
            found.append(name)
    return found


async def missing(database: Any) -> dict[str, list[str]]:
    """What is not there: the names of indexes by collection."""
    found = {}
    for name, indexes in INDEXES.items():
        there = await database[name].index_information()
        if names := [index.document["name"] for index in indexes if index.document["name"] not in there]:
            found[name] = names
    return found


async def unbuilt(database: Any) -> dict[str, list[str]]:
    """What is missing from collections which hold something: with much data, building it takes long."""
    lacking = (await missing(database)).items()
    return {name: names for name, names in lacking if await database[name].find_one({}, {"_id": True}) is not None}


def told(lacking: Mapping[str, Sequence[str]]) -> str:
    """The indexes as a text for a log."""
    return ", ".join(f"{name}.{index}" for name, indexes in lacking.items() for index in indexes)


async def ensure_indexes(database: Any) -> None:
    """Make what is missing. Safe to run by several servers at once; collections must exist before transactions."""
    existing = set(await database.list_collection_names())
    for name, indexes in INDEXES.items():
        if name not in existing:
            await _create(database, name, _OPTIONS.get(name, {}))
        await database[name].create_indexes(indexes)


async def _create(database: Any, name: str, options: Mapping[str, Any]) -> None:
    """Make the collection, unless it is there; without the options where MongoDB has another storage engine."""
    try:
        await database.create_collection(name, **options)
    except CollectionInvalid:
        pass  # another server made it before the driver looked
    except OperationFailure as error:
        if error.code == _NAMESPACE_EXISTS:  # or after
            return
        if not options or domain_error(error) is not None:
            raise
        _log.warning("MongoDB does not let %s have small pages for its indexes", name)
        await _create(database, name, {})
