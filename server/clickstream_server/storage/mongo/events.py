"""Storing and reading events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson import decode
from pymongo import ASCENDING
from pymongo.errors import BulkWriteError

from clickstream.errors import InvalidField
from clickstream.models import ItemFailure, PushResult, SessionEvent, WriteOutcome
from clickstream.values import micros_from_datetime
from clickstream_server.canonical import canonical_event, content_hash, derived_event_id
from clickstream_server.clock import now_micros
from clickstream_server.limits import Limits, check_event
from clickstream_server.storage.mongo import documents, indexes
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CODEC, RAW_CODEC, settle
from clickstream_server.storage.mongo.errors import DUPLICATE_KEY, storage_unavailable

IN_ORDER = [("_id.session_id", ASCENDING), ("created_at", ASCENDING), ("_id.event_id", ASCENDING)]
CONTENT_CONFLICT = "CONTENT_CONFLICT"
_ID_SHOWN_MAX = 256
"""An id that was refused for its length is not sent back whole."""
_SURPLUS_MAX = 1000
"""How many events more than asked for are read of a session rather than to ask for that session alone."""


class TooManyBytes(Exception):
    """The events of these sessions are more than may be held at once."""


@dataclass(frozen=True, slots=True)
class FoundEvents:
    """The events that were read of a session, and how many are stored."""

    events: tuple[SessionEvent, ...] = ()
    count: int = 0


@dataclass(slots=True)
class _Pushed:
    """An event of a push, at its place in the request."""

    index: int
    document: Document


class EventStore:
    """The events' collection."""

    def __init__(self, database: Any, limits: Limits) -> None:
        self._events = database[indexes.EVENTS]
        self._limits = limits

    # --- storing ----------------------------------------------------------------------------------------------------

    async def push(self, events: Sequence[SessionEvent | InvalidField]) -> PushResult:
        """Store what is valid, each once; see `ClickstreamDao.push_events`."""
        if not events:
            raise InvalidField.at("events", "must not be empty")
        if len(events) > self._limits.events_per_call_max:
            raise InvalidField.at("events", f"must be {self._limits.events_per_call_max} at most, not {len(events)}")
        now = now_micros()
        pushed: list[_Pushed] = []
        failures: list[ItemFailure] = []
        invalid: list[InvalidField] = []
        for index, event in enumerate(events):
            try:
                pushed.append(_Pushed(index, self._document(event, now)))
            except InvalidField as error:
                invalid.append(error.under(f"events[{index}]"))
                failures.append(_rejected(index, event, error))
        if not pushed:
            raise InvalidField.of(violation for error in invalid for violation in error.violations)
        duplicates, conflicts = await self._insert(pushed)
        return PushResult(
            inserted=len(pushed) - len(duplicates) - len(conflicts),
            duplicates=len(duplicates),
            conflicts=len(conflicts),
            rejected=len(invalid),
            failures=tuple(sorted([*failures, *map(_conflict, conflicts)], key=lambda failure: failure.index)),
        )

    def _document(self, event: SessionEvent | InvalidField, now: int) -> Document:
        if isinstance(event, InvalidField):
            raise event
        canonical = canonical_event(event)
        created_at = None if event.created_at is None else micros_from_datetime(event.created_at)
        check_event(event, content=canonical, created_at=created_at, now_micros=now, limits=self._limits)
        hashed = content_hash(canonical)
        return documents.event_to_document(
            event,
            event_id=event.event_id or derived_event_id(hashed),
            content_hash=hashed,
            created_at=now if created_at is None else created_at,
        )

    async def _insert(self, pushed: list[_Pushed]) -> tuple[list[_Pushed], list[_Pushed]]:
        """Insert all; return those that were stored before with the same content, and those with other content."""
        try:
            await self._events.insert_many([item.document for item in pushed], ordered=False)
        except BulkWriteError as error:
            errors = error.details.get("writeErrors", [])
            if error.details.get("writeConcernErrors") or any(found["code"] != DUPLICATE_KEY for found in errors):
                raise
            known = [pushed[found["index"]] for found in errors]
        else:
            return [], []
        keys = [item.document["_id"] for item in known]
        stored = {_key(found): found async for found in self._events.find({"_id": {"$in": keys}})}
        if any(_key(item.document) not in stored for item in known):
            # Another writer's insert is there and not yet durable: nothing can be promised about it. A retry will tell.
            raise storage_unavailable()
        same = [
            documents.same_event_content(stored[_key(item.document)], item.document["content_hash"]) for item in known
        ]
        return (
            [item for item, is_same in zip(known, same, strict=True) if is_same],
            [item for item, is_same in zip(known, same, strict=True) if not is_same],
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    async def of_session(self, session_id: str, *, limit: int | None, session: Any = None) -> FoundEvents:
        """A session's earliest events and how many it has."""
        query = {"_id.session_id": session_id}
        events: tuple[SessionEvent, ...] = ()
        if limit != 0:
            cursor = self._events.find(query, session=session).sort(IN_ORDER).limit(limit or 0)
            events = tuple([documents.event_from_document(found) async for found in cursor])
        if limit is None or len(events) < limit:
            return FoundEvents(events, len(events))
        counts = await self._counts([session_id], session)
        return FoundEvents(events, max(len(events), counts.get(session_id, 0)))

    async def of_sessions(
        self, session_ids: Sequence[str], *, limit: int | None, bytes_max: int, session: Any
    ) -> dict[str, FoundEvents]:
        """The earliest events of many sessions, in few queries. Raises TooManyBytes past `bytes_max` of BSON."""
        if limit is None:
            found = await self._all_of(session_ids, bytes_max, session)
            return {session_id: FoundEvents(tuple(events), len(events)) for session_id, events in found.items()}
        counts = await self._counts(session_ids, session)
        if limit == 0:
            return {session_id: FoundEvents((), count) for session_id, count in counts.items()}
        alone = len(session_ids) == 1
        at_once = [session_id for session_id, count in counts.items() if not alone and count <= limit + _SURPLUS_MAX]
        found = await self._all_of(at_once, bytes_max, session) if at_once else {}
        results = {
            session_id: FoundEvents(tuple(events[:limit]), counts[session_id]) for session_id, events in found.items()
        }
        for session_id in counts.keys() - results.keys():
            found = await self._all_of([session_id], bytes_max, session, limit=limit)
            results[session_id] = FoundEvents(tuple(found.get(session_id, ())), counts[session_id])
        return results

    async def _all_of(
        self, session_ids: Sequence[str], bytes_max: int, session: Any, *, limit: int = 0
    ) -> dict[str, list[SessionEvent]]:
        found: dict[str, list[SessionEvent]] = {}
        size = 0
        cursor = self._events.with_options(codec_options=RAW_CODEC).find(
            {"_id.session_id": {"$in": list(session_ids)}}, session=session
        )
        try:
            async for raw in cursor.sort(IN_ORDER).limit(limit):
                size += len(raw.raw)
                if size > bytes_max:
                    raise TooManyBytes
                event = documents.event_from_document(decode(raw.raw, CODEC))
                found.setdefault(event.session_id, []).append(event)
        finally:
            await cursor.close()
        return found

    async def _counts(self, session_ids: Sequence[str], session: Any) -> dict[str, int]:
        """How many events each session has, from the index alone."""
        pipeline = [
            {"$match": {"_id.session_id": {"$in": list(session_ids)}}},
            {"$group": {"_id": "$_id.session_id", "count": {"$sum": 1}}},
        ]
        cursor = await settle(self._events.aggregate(pipeline, session=session))
        return {group["_id"]: group["count"] async for group in cursor}


def _key(document: Document) -> tuple[str, str]:
    return document["_id"]["session_id"], document["_id"]["event_id"]


def _rejected(index: int, event: SessionEvent | InvalidField, error: InvalidField) -> ItemFailure:
    return ItemFailure(
        index=index,
        id=event.event_id[:_ID_SHOWN_MAX] if isinstance(event, SessionEvent) else "",
        outcome=WriteOutcome.REJECTED,
        reason=InvalidField.reason,
        message=error.message,
    )


def _conflict(item: _Pushed) -> ItemFailure:
    return ItemFailure(
        index=item.index,
        id=item.document["_id"]["event_id"],
        outcome=WriteOutcome.CONFLICT,
        reason=CONTENT_CONFLICT,
        message="this session has an event of the same id with other content; what is stored stays",
    )
