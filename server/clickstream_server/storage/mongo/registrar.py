"""The group commit that numbers sessions.

Numbering, storing and the batch's counter are one transaction. Every such transaction writes the batch's document, so
the commits on a batch are in order and what can be read never has a hole; a release writes the same document, so it
cannot slip in between. One transaction a call would be slow: while one is in flight, the calls that arrive form the
next group. There is no timer, and no delay when idle. See docs/adr/0001-group-commit.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pymongo import InsertOne, ReplaceOne, ReturnDocument

from clickstream.errors import ClickstreamError, Overloaded, SessionNotFound, ShuttingDown
from clickstream.models import Registration, Session, SessionBatchStatus, WriteOutcome
from clickstream.values import micros_from_datetime
from clickstream_server.clock import now_micros
from clickstream_server.deadlines import budget_s
from clickstream_server.storage.mongo import documents, indexes
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.errors import driver_call, storage_unavailable
from clickstream_server.storage.mongo.transactions import in_transaction

GROUP_MAX = 256
GROUP_BYTES_MAX = 4 * 1024 * 1024
WAITING_MAX = 20_000


@dataclass(slots=True, eq=False)
class Numbering:
    """One call that waits for a number. `replace`: an update of a known session; otherwise a registration."""

    session: Session
    content_hash: bytes
    content_bytes: int
    replace: bool
    done: asyncio.Future[Registration] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class Plan:
    """What a group comes to: the documents to write by id, how many numbers they use, and each call's result."""

    writes: dict[str, Document] = field(default_factory=dict)
    used: int = 0
    results: list[Registration | ClickstreamError] = field(default_factory=list)


def numbers_wanted(group: Iterable[Numbering], known_ids: Iterable[str]) -> int:
    """How many numbers the group may need at most: one for each new session and each update of a known one."""
    known = set(known_ids)
    wanted = 0
    for call in group:
        session_id = call.session.session_id
        wanted += call.replace == (session_id in known)
        if not call.replace:
            known.add(session_id)
    return wanted


def plan(group: Iterable[Numbering], stored: dict[str, Document], batch_id: str, first_number: int, now: int) -> Plan:
    """Decide each call in turn, as if one came after the other. Pure; `stored` is what the database holds now."""
    made = Plan()
    current = dict(stored)
    for call in group:
        session_id = call.session.session_id
        known = current.get(session_id)
        if known is None and call.replace:
            made.results.append(SessionNotFound.by_id(session_id))
            continue
        if known is not None and (not call.replace or known["batch_id"] == batch_id):
            same = documents.same_session_content(known, call.content_hash)
            if same or not call.replace:
                outcome = WriteOutcome.DUPLICATE if same else WriteOutcome.CONFLICT
                made.results.append(Registration(session=documents.registered_from_document(known), outcome=outcome))
                continue
        document = _numbered(call, batch_id, first_number + made.used, now)
        made.used += 1
        made.writes[session_id] = current[session_id] = document
        made.results.append(
            Registration(session=documents.registered_from_document(document), outcome=WriteOutcome.INSERTED)
        )
    return made


def _numbered(call: Numbering, batch_id: str, number: int, now: int) -> Document:
    created_at = call.session.created_at
    document = documents.session_to_document(
        call.session,
        content_hash=call.content_hash,
        created_at=now if created_at is None else micros_from_datetime(created_at),
    )
    document["batch_id"] = batch_id
    document["session_number"] = number
    document["registered_at"] = now
    return document


def _new_batch_id(now: int) -> str:
    moment = datetime.fromtimestamp(now / 1_000_000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


class Registrar:
    """Gathers the calls that wait for numbers into groups, one transaction at a time."""

    def __init__(self, client: Any, database: Any, *, timeout_s: float) -> None:
        self._client = client
        self._sessions = database[indexes.SESSIONS]
        self._batches = database[indexes.BATCHES]
        self._timeout_s = timeout_s
        self._waiting: deque[Numbering] = deque()
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, call: Numbering) -> Registration:
        """Wait until the call's group is committed. Raises SessionNotFound for an update of an unknown session."""
        if self._closed:
            raise ShuttingDown("the server is stopping", retry_after_s=1.0)
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded("too many sessions wait for their number", retry_after_s=1.0)
        most_s = budget_s(self._timeout_s)
        self._waiting.append(call)
        if self._working is None or self._working.done():
            # An empty context: the group must not inherit the deadline of the call that happened to start it.
            self._working = asyncio.create_task(self._work(), context=Context())
        try:
            async with asyncio.timeout(most_s):
                return await call.done
        except TimeoutError as error:
            raise storage_unavailable() from error

    async def close(self) -> None:
        """Refuse new calls and finish those that wait."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait([self._working])

    async def _work(self) -> None:
        while group := self._next_group():
            await self._settle(group)

    def _next_group(self) -> list[Numbering]:
        group: list[Numbering] = []
        size = 0
        while self._waiting and len(group) < GROUP_MAX and size < GROUP_BYTES_MAX:
            call = self._waiting.popleft()
            if not call.done.done():  # its caller may have gone away
                group.append(call)
                size += call.content_bytes
        return group

    async def _settle(self, group: list[Numbering]) -> None:
        """Give every call of the group its result or its error. Never raises."""
        try:
            with driver_call(self._timeout_s):
                made = await in_transaction(
                    self._client, lambda session: self._number(group, session), most_s=self._timeout_s
                )
        except Exception as error:
            await self._settle_failed(group, error)
            return
        for call, result in zip(group, made.results, strict=True):
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
        """The transaction: look up, take numbers, store."""
        ids = list({call.session.session_id for call in group})
        cursor = self._sessions.find({"_id": {"$in": ids}}, session=session)
        stored = {document["_id"]: document async for document in cursor}
        wanted = numbers_wanted(group, stored)
        now = now_micros()
        collecting: Document | None = None
        if any(call.replace for call in group):
            # An update may turn out to change nothing; it must then leave the batch and its updated_at alone, too.
            collecting = await self._batches.find_one({"status": SessionBatchStatus.COLLECTING.value}, session=session)
        if collecting is not None:
            wanted = plan(group, stored, collecting["_id"], first_number=1, now=now).used
        if not wanted:
            batch_id = "" if collecting is None else collecting["_id"]
            return plan(group, stored, batch_id, first_number=0, now=now)
        batch = await self._take_numbers(wanted, now, session)
        made = plan(group, stored, batch["_id"], batch["session_counter"] - wanted + 1, now)
        if made.used < wanted:
            unused = {"$inc": {"session_counter": made.used - wanted}}
            await self._batches.update_one({"_id": batch["_id"]}, unused, session=session)
        if made.writes:
            writes = [
                ReplaceOne({"_id": session_id}, document) if session_id in stored else InsertOne(document)
                for session_id, document in made.writes.items()
            ]
            await self._sessions.bulk_write(writes, session=session)
        return made

    async def _take_numbers(self, count: int, now: int, session: Any) -> Document:
        """Raise the collecting batch's counter by `count`, making the batch if there is none; return it as it is."""
        document: Document = await self._batches.find_one_and_update(
            {"status": SessionBatchStatus.COLLECTING.value},
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
