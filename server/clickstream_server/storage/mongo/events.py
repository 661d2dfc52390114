"""Storing and reading events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bson import decode_all
from pymongo import ASCENDING, ReplaceOne
from pymongo.errors import BulkWriteError

from clickstream.export import add_amount, totals_from
from clickstream.models import Money, WriteOutcome
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of
from clickstream_server.storage.mongo.driver import CODEC, maybe_await
from clickstream_server.storage.mongo.dry_run import DryRun
from clickstream_server.storage.mongo.errors import DUPLICATE_KEY, storage_unavailable, translated
from clickstream_server.storage.mongo.known import KEYS_AT_ONCE, known_events
from clickstream_server.storage.mongo.numbering import event_outcome
from clickstream_server.storage.mongo.raw_batches import TooManyBytes, batches_of, document_sizes
from clickstream_server.storage.mongo.transactions import past_abandoned

IN_ORDER = [("_id.session_id", ASCENDING), ("created_at", ASCENDING), ("_id.event_id", ASCENDING)]
_SURPLUS_MAX = 1000
"""How many events more than asked for are read of a session rather than to ask for that session alone."""
_BATCH_EVENTS = 5_000
"""So many are read in one turn at most: a page's, mostly. MongoDB's default is 101 first, and then all the rest."""


@dataclass(slots=True)
class _Bytes:
    """How many more bytes of events may be held, over all queries of a read."""

    left: int

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooManyBytes


@dataclass(slots=True)
class FoundEvents:
    """The events that were read of a session, how many are stored and, where asked for, what all of these are worth."""

    documents: Sequence[Document] = ()
    count: int = 0
    totals: tuple[Money, ...] = ()


NO_EVENTS = FoundEvents()


class EventStore:
    """The events' collection."""

    def __init__(self, database: Any) -> None:
        self._events = database[indexes.EVENTS]

    # --- storing ----------------------------------------------------------------------------------------------------

    async def insert(self, new: Sequence[Document], *, replace: bool = False) -> list[WriteOutcome]:
        """Insert all, each once; return what became of each: INSERTED, DUPLICATE or CONFLICT.

        `replace`: what is stored with other content is replaced, and told as INSERTED.
        """
        told = []
        for outcome in await self.insert_each(new, replace=replace):
            if isinstance(outcome, Exception):
                raise outcome
            told.append(outcome)
        return told

    async def insert_each(self, new: Sequence[Document], *, replace: bool = False) -> list[WriteOutcome | Exception]:
        """As `insert`, but what fails for one event stands in its place. Raises what failed for all."""
        outcomes: list[WriteOutcome | Exception] = []
        async with past_abandoned(self._events.database.client):
            for at in range(0, len(new), KEYS_AT_ONCE):  # MongoDB's answer names each key that is known
                outcomes += await self._insert_each(new[at : at + KEYS_AT_ONCE], replace=replace)
        return outcomes

    async def _insert_each(self, new: Sequence[Document], *, replace: bool) -> list[WriteOutcome | Exception]:
        outcomes: list[WriteOutcome | Exception] = [WriteOutcome.INSERTED] * len(new)
        try:
            await self._events.insert_many(new, ordered=False)
            return outcomes
        except BulkWriteError as error:
            if error.details.get("writeConcernErrors"):
                raise
            details, errors = error.details, error.details.get("writeErrors", [])
        for found in errors:
            if found["code"] != DUPLICATE_KEY:
                outcomes[found["index"]] = translated(BulkWriteError({**details, "writeErrors": [found]}))
        known = sorted(found["index"] for found in errors if found["code"] == DUPLICATE_KEY)
        stored = await known_events(self._events, [new[place] for place in known])
        replacing = []
        for place in known:
            event = new[place]
            there = stored.get(event_key_of(event))
            if there is None:
                # Another writer's insert is there and not yet durable: nothing can be promised. A retry will tell.
                outcomes[place] = storage_unavailable()
                continue
            outcomes[place] = event_outcome(event, there, replace=replace)
            if outcomes[place] is WriteOutcome.INSERTED:
                replacing.append(ReplaceOne({"_id": event["_id"], "content_hash": there["content_hash"]}, event))
                stored[event_key_of(event)] = event  # what the next one of this key is compared with
        if replacing and (await self._events.bulk_write(replacing)).matched_count < len(replacing):
            # Somebody replaced one since the look: a call that nobody waits for any more must not undo that.
            raise storage_unavailable()
        return outcomes

    async def simulate_insert(self, new: Sequence[Document], dry_run: DryRun, *, replace: bool) -> list[WriteOutcome]:
        """What `insert` would return if what the dry run would have stored were stored; nothing is written."""
        stored = await known_events(self._events, new) | dry_run.events(new)
        inserted: dict[EventKey, Document] = {}
        outcomes = []
        for event in new:
            key = event_key_of(event)
            outcomes.append(event_outcome(event, inserted.get(key) or stored.get(key), replace=replace))
            if outcomes[-1] is WriteOutcome.INSERTED:
                inserted[key] = event
        dry_run.add(events=inserted.values())
        return outcomes

    # --- reading ----------------------------------------------------------------------------------------------------

    async def of_session(self, session_id: str, *, limit: int | None, bytes_max: int) -> FoundEvents:
        """A session's earliest events and how many it has. Raises TooManyBytes past `bytes_max` of BSON."""
        events: Sequence[Document] = ()
        if limit != 0:
            found = await self._all_of([session_id], _Bytes(bytes_max), None, limit=limit or 0)
            events = found.get(session_id, ())
        if limit is None or len(events) < limit:
            return FoundEvents(events, len(events))
        counts = await self._counts([session_id], None)
        return FoundEvents(events, max(len(events), counts.get(session_id, 0)))

    async def of_sessions(
        self, session_ids: Sequence[str], *, limit: int | None, bytes_max: int, session: Any
    ) -> dict[str, FoundEvents]:
        """The earliest events of many sessions, in few queries. Raises TooManyBytes past `bytes_max` of BSON."""
        left = _Bytes(bytes_max)
        if limit is None:
            found = await self._all_of(session_ids, left, session)
            return {session_id: FoundEvents(events, len(events)) for session_id, events in found.items()}
        counts = await self._counts(session_ids, session)
        if limit == 0:
            return {session_id: FoundEvents((), count) for session_id, count in counts.items()}
        alone = len(session_ids) == 1
        at_once = [session_id for session_id, count in counts.items() if not alone and count <= limit + _SURPLUS_MAX]
        found = await self._all_of(at_once, left, session) if at_once else {}
        results = {session_id: FoundEvents(events[:limit], counts[session_id]) for session_id, events in found.items()}
        for session_id in counts.keys() - results.keys():
            found = await self._all_of([session_id], left, session, limit=limit)
            results[session_id] = FoundEvents(found.get(session_id, ()), counts[session_id])
        return results

    async def _all_of(
        self, session_ids: Sequence[str], left: _Bytes, session: Any, *, limit: int = 0
    ) -> dict[str, list[Document]]:
        found: dict[str, list[Document]] = {}
        cursor = self._in_order({"_id.session_id": {"$in": list(session_ids)}}, session).limit(limit)
        async with aclosing(batches_of(cursor)) as batches:
            async for batch in batches:
                left.take(len(batch))
                for event in decode_all(batch, CODEC):
                    found.setdefault(event["_id"]["session_id"], []).append(event)
        return found

    def _in_order(self, query: Document, session: Any) -> Any:
        """A cursor of raw batches."""
        return self._events.find_raw_batches(query, session=session).sort(IN_ORDER).batch_size(_BATCH_EVENTS)

    async def collect(
        self, session_ids: Sequence[str], *, limit: int | None, types: Sequence[str], bytes_max: int, session: Any
    ) -> dict[str, FoundEvents]:
        """The earliest events of many sessions, with the count and the exact totals of all of them.

        `types`: only events of these (none given: all). Raises TooManyBytes if those to be returned pass `bytes_max`,
        or, of several sessions, all that are read: their page must be done in the time of one.
        """
        query: Document = {"_id.session_id": {"$in": list(session_ids)}}
        if types:
            query["event_type"] = {"$in": list(types)}
        kept: dict[str, list[Document]] = {}
        sums: dict[str, dict[str, Decimal]] = {}
        counts: Counter[str] = Counter()
        left = _Bytes(bytes_max)
        cursor = self._in_order(query, session)
        async with aclosing(batches_of(cursor)) as batches:
            async for batch in batches:
                for event, own_size in zip(decode_all(batch, CODEC), document_sizes(batch), strict=True):
                    session_id = event["_id"]["session_id"]
                    counts[session_id] += 1
                    if (value := event.get("value")) is not None:
                        add_amount(
                            sums.setdefault(session_id, {}), value["currency_code"], value["amount"].to_decimal()
                        )
                    wanted = limit is None or counts[session_id] <= limit
                    if wanted or len(session_ids) > 1:
                        left.take(own_size)
                    if wanted:
                        kept.setdefault(session_id, []).append(event)
        return {
            session_id: FoundEvents(kept.get(session_id, ()), count, totals_from(sums.get(session_id, {})))
            for session_id, count in counts.items()
        }

    async def _counts(self, session_ids: Sequence[str], session: Any) -> dict[str, int]:
        """How many events each session has, from the index alone."""
        pipeline = [
            {"$match": {"_id.session_id": {"$in": list(session_ids)}}},
            {"$group": {"_id": "$_id.session_id", "count": {"$sum": 1}}},
        ]
        # All in one answer: a second one costs as much, and a reader that leaves in between would leave a cursor.
        cursor = await maybe_await(self._events.aggregate(pipeline, session=session, batchSize=len(session_ids) + 1))
        return {group["_id"]: group["count"] async for group in cursor}
