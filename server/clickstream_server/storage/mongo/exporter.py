"""Exporting sessions joined with their events: page by page, each one snapshot, in an order that can be resumed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from pymongo import ASCENDING

from clickstream import transfer_wire
from clickstream.errors import BatchNotFound, InvalidField
from clickstream.export import EMPTY_DIGEST, ExportAccount, ExportFilter
from clickstream.models import Money
from clickstream.v1 import session_pb2
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.values import micros_from_datetime
from clickstream_server.limits import Limits, check_id
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.batches import BatchStore
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import settle
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.messages import exported_message
from clickstream_server.storage.mongo.paging import (
    FIRST_PAGE_SESSIONS,
    PAGE_SESSIONS,
    FoundSession,
    events_bytes_max,
    read_page,
)

SESSION_IDS_MAX = 10_000
PART_BYTES = 1024 * 1024
"""A page has about this size at most: each becomes one message, with a resume token of its own."""
_GROWTH = 3
"""A message may be so many times as large as its BSON: JSON of small numbers under short names is."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A way through the sessions: the query, the fields that order them, and how a position is told."""

    query: Document
    order: tuple[str, ...]

    def after(self, position: list[Any] | None) -> Document:
        """The query for what comes after a position (None: everything)."""
        if position is None:
            return self.query
        first, *rest = self.order
        if not rest:
            return self.query | {"$and": [{first: {"$gt": position[0]}}]}
        # The plain bound lets MongoDB enter its index at the right place; the choice skips what was read at that time.
        choice = [{first: {"$gt": position[0]}}, {first: position[0], rest[0]: {"$gt": position[1]}}]
        return self.query | {"$and": [{first: {"$gte": position[0]}}, {"$or": choice}]}

    def position_of(self, document: Document) -> list[Any]:
        return [document[field] for field in self.order]


def scan_for(chosen: ExportFilter) -> Scan:
    """The scan whose order an index has; see `indexes.py`."""
    query: Document = {}
    created: Document = {}
    if chosen.created_from is not None:
        created["$gte"] = micros_from_datetime(chosen.created_from)
    if chosen.created_to is not None:
        created["$lt"] = micros_from_datetime(chosen.created_to)
    if created:
        query["created_at"] = created
    if chosen.user_id:
        query["user_id"] = chosen.user_id
    if chosen.session_ids:
        query["_id"] = {"$in": list(chosen.session_ids)}
    if chosen.exclude_irrelevant:
        query["is_irrelevant"] = {"$ne": True}
    if chosen.batch_id:
        return Scan(query | {"batch_id": chosen.batch_id}, ("session_number",))
    if chosen.session_ids:
        return Scan(query, ("_id",))
    return Scan(query, ("created_at", "_id"))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an export stands: the position in its scan, and the account up to there."""

    position: list[Any] | None = None
    account: ExportAccount = field(default_factory=ExportAccount)


class Exporter:
    """Runs exports."""

    def __init__(
        self, client: Any, database: Any, batches: BatchStore, events: EventStore, limits: Limits, *, timeout_s: float
    ) -> None:
        self._limits = limits
        self._part_bytes = min(PART_BYTES, limits.message_bytes_max // _GROWTH)
        self._client = client
        self._sessions = database[indexes.SESSIONS]
        self._batches = batches
        self._events = events
        self._timeout_s = timeout_s

    async def pages(
        self, chosen: ExportFilter, *, events_limit: int | None, limit: int, resume_token: str
    ) -> AsyncGenerator[pb.ExportSessionsResponse, None]:
        """Yield the answers; the last has the trailer."""
        if len(chosen.session_ids) > SESSION_IDS_MAX:
            raise InvalidField.at("filter.session_ids", f"must be {SESSION_IDS_MAX} at most")
        if chosen.batch_id:
            check_id("filter.batch_id", chosen.batch_id, self._limits)
        await self._check_batch(chosen.batch_id)
        scan, key = scan_for(chosen), _filter_key(chosen)
        place = _read_token(resume_token, key, len(scan.order)) if resume_token else _Place()
        left, page_sessions = limit or None, FIRST_PAGE_SESSIONS
        while True:
            wanted = page_sessions if left is None else min(page_sessions, left)
            found, complete = await self._page(scan, place.position, wanted, events_limit, chosen)
            left = None if left is None else left - len(found)
            ended = complete or left == 0
            parts = _parts(found, self._part_bytes)
            for part in parts:
                position = part[-1].position if part else place.position
                place = _Place(position, place.account.after(part))
                trailer = transfer_wire.export_trailer_to_pb(place.account) if ended and part is parts[-1] else None
                yield pb.ExportSessionsResponse(
                    sessions=[read.message for read in part], resume_token=_token(place, key), trailer=trailer
                )
            if ended:
                return
            page_sessions = PAGE_SESSIONS

    async def _check_batch(self, batch_id: str) -> None:
        if batch_id:
            async with storage_call(self._timeout_s):
                if await self._batches.get(batch_id) is None:
                    raise BatchNotFound.by_id(batch_id)

    async def _page(
        self, scan: Scan, position: list[Any] | None, wanted: int, events_limit: int | None, chosen: ExportFilter
    ) -> tuple[list[_Read], bool]:
        """The next sessions, and whether they are the last."""
        order = [(name, ASCENDING) for name in scan.order]
        async with (
            storage_call(self._timeout_s),
            await settle(self._client.start_session(snapshot=True)) as session,
        ):
            cursor = (
                self._sessions.find_raw_batches(scan.after(position), session=session).sort(order).limit(wanted + 1)
            )
            read_events = partial(
                self._events.collect,
                limit=events_limit,
                types=chosen.event_types,
                bytes_max=events_bytes_max(self._limits),
                session=session,
            )
            found, complete = await read_page(cursor, wanted, read_events)
        return [_exported(read, scan) for read in found], complete


@dataclass(frozen=True, slots=True)
class _Read:
    """A session that was read, its size in bytes of BSON with its events, and the position after it."""

    message: pb.ExportedSession
    totals: Sequence[Money]
    size: int
    position: list[Any]

    @property
    def session(self) -> session_pb2.SessionWithEvents:
        return self.message.session


def _parts(found: list[_Read], part_bytes: int) -> list[list[_Read]]:
    """The page in parts of a good size for a message; at least one, be it empty."""
    parts: list[list[_Read]] = [[]]
    size = 0
    for read in found:
        size += read.size
        if size > part_bytes and parts[-1]:
            parts.append([])
            size = read.size
        parts[-1].append(read)
    return parts


def _exported(read: FoundSession, scan: Scan) -> _Read:
    message = exported_message(read.document, read.events.documents, read.events.count, read.events.totals)
    return _Read(message, read.events.totals, read.size + read.events.size, scan.position_of(read.document))


def _filter_key(chosen: ExportFilter) -> str:
    """Tells whether a token belongs to a filter."""
    return hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]


def _token(place: _Place, key: str) -> str:
    account = place.account
    content = {
        "filter": key,
        "position": place.position,
        "sessions": account.session_count,
        "events": account.event_count,
        "totals": [[total.currency_code, total.text] for total in account.totals],
        "digest": account.digest.hex(),
    }
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def _read_token(token: str, key: str, steps: int) -> _Place:
    try:
        content = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        totals = tuple(
            Money.model_construct(currency_code=code, amount=Decimal(amount)) for code, amount in content["totals"]
        )
        account = ExportAccount(content["sessions"], content["events"], totals, bytes.fromhex(content["digest"]))
        same_filter = content["filter"] == key
        place = _Place(content["position"], account)
        if not _is_sound(place, steps):
            raise ValueError
    except (binascii.Error, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise InvalidField.at("resume_token", "is not a token that this service gave out") from error
    if not same_filter:
        raise InvalidField.at("resume_token", "belongs to an export with another filter")
    return place


def _is_sound(place: _Place, steps: int) -> bool:
    """Whether a token that was read can be gone on from: whoever forged one is told so, too."""
    account, position = place.account, place.position
    return (
        (position is None or (isinstance(position, list) and len(position) == steps))
        and all(isinstance(step, str) or _is_int64(step) for step in position or ())
        and all(_is_int64(count) and count >= 0 for count in (account.session_count, account.event_count))
        and all(isinstance(total.currency_code, str) and total.amount.is_finite() for total in account.totals)
        and len(account.digest) == len(EMPTY_DIGEST)
    )


def _is_int64(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63
