"""The group commit that numbers sessions.

Numbering, storing and the batch's counter are one transaction. Every such transaction writes the batch's document, so
the commits on a batch are in order and what can be read never has a hole; a release writes the same document, so it
cannot slip in between. One transaction a call would be slow: while one is in flight, the calls that arrive form the
next group. There is no timer, and no delay when idle. See docs/adr/0001-group-commit.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Container, Sequence
from contextvars import Context
from datetime import UTC, datetime
from typing import Any

from pymongo import InsertOne, ReplaceOne, ReturnDocument

from clickstream.errors import ClickstreamError, Overloaded, ShuttingDown
from clickstream.models import SessionBatchStatus
from clickstream_server.call_record import Stage, enter
from clickstream_server.clock import now_micros
from clickstream_server.deadlines import budget_s
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX
from clickstream_server.storage.mongo.errors import driver_call, storage_unavailable
from clickstream_server.storage.mongo.numbering import Intent, Numbered, Numbering, Plan, plan
from clickstream_server.storage.mongo.transactions import in_transaction
from clickstream_server.storage.observer import NOBODY, StorageObserver

GROUP_MAX = 256
GROUP_BYTES_MAX = 4 * 1024 * 1024
WAITING_MAX = 20_000
WAITING_BYTES_MAX = 64 * 1024 * 1024
"""Past so many calls or bytes that wait, calls are refused; imports leave half of both to others."""
_COLLECTING = {"status": SessionBatchStatus.COLLECTING.value}


def _new_batch_id(now: int) -> str:
    moment = datetime.fromtimestamp(now / 1_000_000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


class Registrar:
    """Gathers the calls that wait for numbers into groups, one transaction at a time."""

    def __init__(self, client: Any, database: Any, *, timeout_s: float, observer: StorageObserver = NOBODY) -> None:
        self._client = client
        self._observer = observer
        self._sessions = database[indexes.SESSIONS]
        self._events = database[indexes.EVENTS]
        self._batches = database[indexes.BATCHES]
        self._timeout_s = timeout_s
        self._waiting: OrderedDict[int, Numbering] = OrderedDict()
        """By identity, so that a call whose caller has gone away can leave."""
        self._waiting_bytes = 0
        self._entrance = asyncio.Lock()
        self._taken = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> tuple[int, int]:
        """How many calls wait for their group now, and how many bytes they have."""
        return len(self._waiting), self._waiting_bytes

    async def submit(self, call: Numbering) -> Numbered:
        """Wait until the call's group is committed. Raises SessionNotFound for an update of an unknown session."""
        return (await self.submit_all([call]))[0]

    async def submit_all(self, calls: Sequence[Numbering]) -> list[Numbered]:
        """Wait until all are committed; they are numbered in this order. Raises the first error, if there is one."""
        if self._closed:
            raise ShuttingDown("the server is stopping", retry_after_s=1.0)
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            raise Overloaded("too many sessions wait for their number", retry_after_s=1.0)
        most_s = budget_s(self._timeout_s)
        for call in calls:
            self._waiting[id(call)] = call
            self._waiting_bytes += call.content_bytes
        enter(Stage.QUEUE)
        if self._working is None or self._working.done():
            # An empty context: the group must not inherit the deadline of the call that happened to start it.
            self._working = asyncio.create_task(self._work(), context=Context())
        try:
            async with asyncio.timeout(most_s):
                return await asyncio.gather(*(call.done for call in calls))
        except TimeoutError as error:
            raise storage_unavailable() from error
        finally:
            enter(Stage.ENCODE)
            self._leave(calls)

    def _leave(self, calls: Sequence[Numbering]) -> None:
        """Those whose caller has gone away wait no longer: nobody would be told, and others have their room."""
        for call in calls:
            if call.done.cancelled() and self._waiting.pop(id(call), None) is not None:
                self._waiting_bytes -= call.content_bytes
                self._taken.set()

    async def submit_in_turn(self, calls: Sequence[Numbering]) -> list[Numbered]:
        """As `submit_all`, but waits for room instead of raising Overloaded. Who comes first goes first."""
        count, size = len(calls), sum(call.content_bytes for call in calls)
        try:
            async with asyncio.timeout(budget_s(self._timeout_s)), self._entrance:
                while self._waiting and not self._leaves_half(count, size):
                    self._taken.clear()
                    await self._taken.wait()
        except TimeoutError as error:
            raise storage_unavailable() from error
        return await self.submit_all(calls)

    def _leaves_half(self, count: int, size: int) -> bool:
        return len(self._waiting) + count <= WAITING_MAX // 2 and self._waiting_bytes + size <= WAITING_BYTES_MAX // 2

    async def close(self) -> None:
        """Refuse new calls and finish those that wait, unless the database keeps that from happening."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait([self._working], timeout=CLOSE_S_MAX)
            self._working.cancel()

    async def _work(self) -> None:
        while group := self._next_group():
            await self._settle(group)

    def _next_group(self) -> list[Numbering]:
        group: list[Numbering] = []
        size = 0
        while self._waiting and len(group) < GROUP_MAX and size < GROUP_BYTES_MAX:
            _, call = self._waiting.popitem(last=False)
            self._waiting_bytes -= call.content_bytes
            group.append(call)
            if call.record is not None:
                call.record.enter(Stage.DATABASE)
            size += call.content_bytes
        self._taken.set()
        return group

    async def _settle(self, group: list[Numbering]) -> None:
        """Give every call of the group its result or its error. Never raises."""
        try:
            with self._observer.group_commit([call.record for call in group]), driver_call(self._timeout_s):
                made = await in_transaction(
                    self._client,
                    lambda session: self._number(group, session),
                    most_s=self._timeout_s,
                    observer=self._observer,
                )
            results = made.results()
        except Exception as error:
            await self._settle_failed(group, error)
            return
        for call, result in zip(group, results, strict=True):
            if call.done.done():
                continue
            if isinstance(result, ClickstreamError):
                call.done.set_exception(result)
            else:
                call.done.set_result(result)

    async def _settle_failed(self, group: list[Numbering], error: Exception) -> None:
        """A fault that is not the database's absence may lie in one call: the others must not suffer from it."""
        if len(group) > 1 and not isinstance(error, ClickstreamError):
            for call in group:
                await self._settle([call])
            return
        for call in group:
            if not call.done.done():
                call.done.set_exception(error)

    async def _number(self, group: list[Numbering], session: Any) -> Plan:
        """The transaction: look up, decide, take numbers, store."""
        stored, stored_events = await self.look_up(group, session)
        now = now_micros()
        collecting = None
        if any(call.intent is not Intent.REGISTER for call in group):  # whether it moves depends on where it is
            collecting = await self._batches.find_one(_COLLECTING, session=session)
        made = plan(group, stored, stored_events, collecting=collecting["_id"] if collecting else "", now=now)
        if made.used:
            batch = await self._take_numbers(made.used, now, session)
            made.number(batch["_id"], batch["session_counter"] - made.used + 1)
        await _write(self._sessions, made.sessions, stored, session)
        await _write(self._events, made.events, stored_events, session)
        return made

    async def look_up(
        self, group: Sequence[Numbering], session: Any = None
    ) -> tuple[dict[str, Document], dict[EventKey, Document]]:
        """What is stored of the sessions and events that the group is about."""
        ids = list({call.document["_id"] for call in group})
        cursor = self._sessions.find({"_id": {"$in": ids}}, session=session)
        stored = {document["_id"]: document async for document in cursor}
        keys = [event["_id"] for call in group for event in call.events]
        if not keys:
            return stored, {}
        cursor = self._events.find({"_id": {"$in": keys}}, session=session)
        return stored, {event_key_of(document): document async for document in cursor}

    async def _take_numbers(self, count: int, now: int, session: Any) -> Document:
        """Raise the collecting batch's counter by `count`, making the batch if there is none; return it as it is."""
        document: Document = await self._batches.find_one_and_update(
            _COLLECTING,
            {
                "$inc": {"session_counter": count},
                "$set": {"updated_at": now},
                "$setOnInsert": {"_id": _new_batch_id(now), "created_at": now},
            },
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return document


async def _write(collection: Any, new: dict[Any, Document], stored: Container[Any], session: Any) -> None:
    """Insert what is new and replace what is stored, by the documents' ids."""
    writes = [
        ReplaceOne({"_id": document["_id"]}, document) if key in stored else InsertOne(document)
        for key, document in new.items()
    ]
    if writes:
        await collection.bulk_write(writes, session=session)
