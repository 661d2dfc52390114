"""The group commit that numbers sessions.

Numbering, storing and the batch's counter are one transaction. Every such transaction writes the batch's document, so
the commits on a batch are in order and what can be read never has a hole; a release writes the same document, so it
cannot slip in between. One transaction a call would be slow, so calls are gathered. See docs/adr/0001-group-commit.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat
from math import inf
from typing import Any

from pymongo import InsertOne, ReplaceOne, ReturnDocument
from pymongo.errors import BulkWriteError

from clickstream.errors import ClickstreamError
from clickstream_server.clock import now_micros
from clickstream_server.deadlines import budget_s
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.documents import COLLECTING, Document, EventKey
from clickstream_server.storage.mongo.driver import CODEC, in_one_thread, maybe_await, unwrapped
from clickstream_server.storage.mongo.errors import driver_call, note_cause, storage_unavailable
from clickstream_server.storage.mongo.gatherer import Gatherer
from clickstream_server.storage.mongo.known import known_events, known_sessions
from clickstream_server.storage.mongo.numbering import Intent, Plan, SessionWrite, WriteResult, plan
from clickstream_server.storage.mongo.raw_batches import TooManyBytes, first_batch
from clickstream_server.storage.mongo.transactions import in_transaction
from clickstream_server.storage.observer import NOBODY, StorageObserver

_ONE_COMMAND_BYTES_MAX = 2 * 1024 * 1024
"""A command may have 16 MiB, and in BSON content grows to seven times its size at most, as that of [1,1,1] does."""
_ANSWER = CODEC.with_options(unicode_decode_error_handler="replace")
"""MongoDB names a known id in its error, and cuts a long one off within a character."""


def _new_batch_id(now: int) -> str:
    moment = datetime.fromtimestamp(now / 1_000_000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


class Registrar(Gatherer[SessionWrite, WriteResult]):
    """Gathers the calls that wait for numbers into groups, one transaction at a time.

    An update of an unknown session gets SessionNotFound. Those that enter together are numbered in their order.
    """

    gathered = "register"
    group_max = 512
    """Of 1,024 MongoDB takes a tenth less time for a session of an import, and single calls wait twice as long."""
    group_bytes_max = 4 * 1024 * 1024
    overloaded = "too many sessions wait for their number"

    def __init__(self, client: Any, database: Any, *, timeout_s: float, observer: StorageObserver = NOBODY) -> None:
        super().__init__(timeout_s=timeout_s, observer=observer)
        self._client = client
        names = (indexes.SESSIONS, indexes.EVENTS, indexes.BATCHES)
        self._sessions, self._events, self._batches = (unwrapped(database)[name] for name in names)
        self._entrance = asyncio.Lock()
        self._patience: dict[asyncio.Timeout, float] = {}
        """Of those that wait for room, and when it ends at the latest: with their callers' time."""
        self._met_known = False
        """Whether the last group had ids that were known."""

    async def submit_in_turn(self, calls: Sequence[SessionWrite]) -> list[WriteResult]:
        """As `submit_all`, but waits for room instead of raising Overloaded. Who comes first goes first.

        Imports come in here, and leave half of what may wait to others, or the largest a quarter. They wait as long as
        sessions get their numbers, however many are in front of them.
        """
        try:
            async with asyncio.timeout(budget_s(self._timeout_s)) as patience:
                self._patience[patience] = asyncio.get_running_loop().time() + budget_s(inf)
                try:
                    await self._room_for(calls)
                finally:
                    del self._patience[patience]
        except TimeoutError as error:
            note_cause(error)
            raise storage_unavailable() from error
        return await self.submit_all(calls)

    async def _room_for(self, calls: Sequence[SessionWrite]) -> None:
        count, size = len(calls), sum(call.content_bytes for call in calls)
        async with self._entrance:
            while self._waiting and not self._has_room(count, size):
                self._taken.clear()
                await self._taken.wait()

    def _be_patient(self) -> None:
        """Sessions got their numbers: who waits for room has as much time again."""
        until = asyncio.get_running_loop().time() + self._timeout_s
        for patience, latest in self._patience.items():
            if not patience.expired():
                patience.reschedule(min(until, latest))

    def _has_room(self, count: int, size: int) -> bool:
        """Whether half stays free, if the largest count as a quarter: else they would wait until nobody waits."""
        waiting, waiting_bytes = self.waiting
        most, bytes_max = self.waiting_max // 4, self.waiting_bytes_max // 4
        return waiting + min(count, most) <= 2 * most and waiting_bytes + min(size, bytes_max) <= 2 * bytes_max

    async def work(self, group: list[SessionWrite]) -> list[WriteResult | ClickstreamError]:
        # Mostly all ids are new, and it is left to the index to say otherwise, at the price of a second transaction.
        changes = any(call.intent is not Intent.REGISTER for call in group)
        look_up = chain([changes or self._met_known], repeat(True))
        tried: list[SessionWrite] = []

        async def number(session: Any) -> Plan:
            # Whose caller has left is not tried again: by now another server may have stored what replaces this.
            tried[:] = [call for call in group if not call.done.done()]
            if not tried:
                return plan((), {}, {}, collecting="", now=0)
            return await self._number(tried, session, look_up=next(look_up), changes=changes)

        with driver_call(self._timeout_s):
            made = await in_transaction(self._client, number, timeout_s=self._timeout_s, observer=self._observer)
        self._met_known = made.met_known
        self._be_patient()
        told = dict(zip(map(id, tried), made.results(), strict=True))
        return [told.get(id(call)) or storage_unavailable() for call in group]

    async def _number(self, group: list[SessionWrite], session: Any, *, look_up: bool, changes: bool) -> Plan:
        """The transaction: look up, decide, take numbers, store.

        Without `look_up` all ids are taken for new; if one is not, that ends with a duplicate key.
        """
        stored, stored_events = await self._look_up(group, session) if look_up else ({}, {})
        now = now_micros()
        collecting = None
        if changes:  # whether a session moves depends on where it is
            collecting = await maybe_await(self._batches.find_one(COLLECTING, session=session))
        made = plan(group, stored, stored_events, collecting=collecting["_id"] if collecting else "", now=now)
        if made.used:
            batch = await self._take_numbers(made.used, now, session)
            made.number(batch["_id"], batch["session_counter"] - made.used + 1)
        at_once = sum(call.content_bytes for call in group) <= _ONE_COMMAND_BYTES_MAX
        await _write(self._sessions, made.sessions, stored, session, at_once=at_once)
        await _write(self._events, made.events, stored_events, session, at_once=at_once)
        return made

    async def look_up(self, group: Sequence[SessionWrite]) -> tuple[dict[str, Document], dict[EventKey, Document]]:
        """What stands for those of the group's sessions and events that are stored; see `known.py`."""

        async def find() -> tuple[dict[str, Document], dict[EventKey, Document]]:
            sessions = await known_sessions(self._sessions, [call.document for call in group])
            return sessions, await known_events(self._events, _events_of(group))

        return await in_one_thread(self._client, find)

    async def _look_up(
        self, group: Sequence[SessionWrite], session: Any
    ) -> tuple[dict[str, Document], dict[EventKey, Document]]:
        """Sessions are whole, since calls are told what is stored. Raises TooManyBytes for more than one answer holds.

        Then the halves of the group are tried. One session always fits.
        """
        ids = list({call.document["_id"] for call in group})
        cursor = self._sessions.find_raw_batches({"_id": {"$in": ids}}, session=session)
        found, complete = await first_batch(cursor, len(ids))
        if not complete:
            self._met_known = True  # so that the halves look them up at once
            raise TooManyBytes
        stored = {document["_id"]: document for document in found}
        return stored, await known_events(self._events, _events_of(group), session=session)

    async def _take_numbers(self, count: int, now: int, session: Any) -> Document:
        """Raise the collecting batch's counter by `count`, making the batch if there is none; return it as it is."""
        document: Document = await maybe_await(
            self._batches.find_one_and_update(
                COLLECTING,
                {
                    "$inc": {"session_counter": count},
                    "$set": {"updated_at": now},
                    "$setOnInsert": {"_id": _new_batch_id(now), "created_at": now},
                },
                upsert=True,
                return_document=ReturnDocument.AFTER,
                session=session,
            )
        )
        return document


def _events_of(group: Sequence[SessionWrite]) -> list[Document]:
    return [event for call in group for event in call.events]


async def _write(
    collection: Any, new: dict[Any, Document], stored: Container[Any], session: Any, *, at_once: bool
) -> None:
    """Insert what is new and replace what is stored, by the documents' ids; `at_once` if one command can hold it."""
    if not new:
        return
    if at_once and all(key not in stored for key in new):
        await _insert(collection, list(new.values()), session)
        return
    writes = [
        ReplaceOne({"_id": document["_id"]}, document) if key in stored else InsertOne(document)
        for key, document in new.items()
    ]
    await maybe_await(collection.bulk_write(writes, session=session))


async def _insert(collection: Any, new: list[Document], session: Any) -> None:
    """As `insert_many` within a transaction, in half of its time in Python: 0.2 ms less for one, 2 for 512.

    Outside of one PyMongo's own is needed, which tries again when a connection was lost.
    """
    command = {"insert": collection.name, "documents": new}
    answer = await maybe_await(collection.database.command(command, session=session, codec_options=_ANSWER))
    if "writeErrors" in answer:
        raise BulkWriteError(answer)
