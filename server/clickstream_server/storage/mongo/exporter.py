"""Exporting sessions joined with their events: page by page, each one snapshot, in an order that can be resumed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from pymongo import ASCENDING

from clickstream import transfer_wire
from clickstream.errors import BatchNotFound, InvalidField
from clickstream.export import (
    EMPTY_DIGEST,
    AccountRow,
    ExportAccount,
    ExportFilter,
    account_from_fields,
    account_row,
    fields_from_account,
)
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.values import micros_from_datetime, text_fault
from clickstream_server.limits import Limits, check_event_type, check_id
from clickstream_server.message_dao import EncodedAnswer
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.batches import BatchStore
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.new_primary import UpToDate
from clickstream_server.storage.mongo.paging import (
    FIRST_PAGE_SESSIONS,
    PAGE_SESSIONS,
    FoundSession,
    events_bytes_max,
    in_turns,
    read_sessions,
    with_events,
)
from clickstream_server.storage.mongo.pipeline import in_order
from clickstream_server.storage.mongo.to_pb import exported_answer

T = TypeVar("T")

SESSION_IDS_MAX, EVENT_TYPES_MAX = 10_000, 1_000
_EXPONENT_MIN, _EXPONENT_MAX = -6176, 6200
"""The exponents of a sum: Decimal128 has -6176 to 6144, and 2^62 of the largest are not 10^56 times as much."""
PART_BYTES = 256 * 1024
"""A message has about this size at most, and a resume token of its own."""


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

    def after(self, part: list[_Read]) -> _Place:
        """The place with these sessions behind it."""
        return _Place(part[-1].position, self.account.plus(read.row for read in part)) if part else self


class Exporter:
    """Runs exports."""

    def __init__(
        self,
        database: Any,
        up_to_date: UpToDate,
        batches: BatchStore,
        events: EventStore,
        limits: Limits,
        *,
        timeout_s: float,
    ) -> None:
        self._limits = limits
        self._part_bytes = min(PART_BYTES, limits.message_bytes_max // 2)
        self._up_to_date = up_to_date
        self._sessions = database[indexes.SESSIONS]
        self._batches = batches
        self._events = events
        self._timeout_s = timeout_s

    async def pages(
        self, chosen: ExportFilter, *, events_limit: int | None, limit: int, resume_token: str
    ) -> AsyncGenerator[EncodedAnswer, None]:
        """Yield the answers; the last has the trailer."""
        _check(chosen, self._limits)
        await self._check_batch(chosen.batch_id)
        scan, key = scan_for(chosen), _key_of(chosen, events_limit)
        place = _read_token(resume_token, key, len(scan.order)) if resume_token else _Place()
        read = partial(self._page, scan, events_limit=events_limit, chosen=chosen)
        pages = in_order(_read_on(read, scan, place.position, limit), partial(_encoded, scan=scan), in_flight=3)
        async with aclosing(pages):  # while one is sent, the next one is encoded and the one after that is read
            async for page in pages:
                part: list[_Read] = []
                size = 0
                for exported in page.sessions:
                    size += len(exported.answer)
                    if size > self._part_bytes and part:
                        place = place.after(part)
                        yield _answer(part, pb.ExportSessionsResponse(resume_token=_token(place, key)))
                        part, size = [], len(exported.answer)
                    part.append(exported)
                place = place.after(part)
                trailer = transfer_wire.export_trailer_to_pb(place.account) if page.last else None
                yield _answer(part, pb.ExportSessionsResponse(resume_token=_token(place, key), trailer=trailer))

    async def _check_batch(self, batch_id: str) -> None:
        if batch_id:
            async with storage_call(self._timeout_s):
                if await self._batches.get(batch_id) is None:
                    raise BatchNotFound.by_id(batch_id)

    async def _page(
        self, scan: Scan, position: list[Any] | None, wanted: int, *, events_limit: int | None, chosen: ExportFilter
    ) -> tuple[list[FoundSession], bool]:
        """The next sessions, and whether they are the last."""
        order = [(name, ASCENDING) for name in scan.order]

        async def read(session: Any) -> tuple[list[Document], bool]:
            cursor = self._sessions.find_raw_batches(scan.after(position), session=session)
            return await read_sessions(cursor.sort(order).limit(wanted + 1), wanted)

        async with (
            storage_call(self._timeout_s),
            self._up_to_date.snapshot(read) as (session, (sessions, complete)),
        ):
            read_events = partial(
                self._events.collect,
                limit=events_limit,
                types=chosen.event_types,
                bytes_max=events_bytes_max(self._limits),
                session=session,
            )
            found = await with_events(sessions, read_events)
        return found, complete and len(found) == len(sessions)


class _Page(NamedTuple, Generic[T]):
    """Some sessions, and whether they are the last."""

    sessions: list[T]
    last: bool


async def _read_on(
    read: Callable[[list[Any] | None, int], Awaitable[tuple[list[FoundSession], bool]]],
    scan: Scan,
    position: list[Any] | None,
    limit: int,
) -> AsyncGenerator[_Page[FoundSession], None]:
    """The pages after a position, as they are read."""
    left, most = limit or None, FIRST_PAGE_SESSIONS
    while True:
        asked = most if left is None else min(most, left)
        found, complete = await read(position, asked)
        left = None if left is None else left - len(found)
        last = complete or left == 0
        yield _Page(found, last)
        if last:
            return
        position = scan.position_of(found[-1].document)
        # Where so many were too large to be read at once, the next ones may be as well.
        most = PAGE_SESSIONS if len(found) == asked else min(PAGE_SESSIONS, 2 * len(found))


async def _encoded(page: _Page[FoundSession], scan: Scan) -> _Page[_Read]:
    return _Page([read async for read in in_turns(page.sessions, partial(_exported, scan=scan))], page.last)


class _Read(NamedTuple):
    """A session that was read as an answer of its own, its row in the account, and the position after it."""

    answer: bytes
    row: AccountRow
    position: list[Any]


def _exported(found: FoundSession, scan: Scan) -> _Read:
    document, events = found
    event_ids = [event["_id"]["event_id"] for event in events.documents]
    place = document["_id"], document["batch_id"], document["session_number"]
    row = account_row(place, events.count, event_ids, events.totals)
    return _Read(exported_answer(found), row, scan.position_of(document))


def _answer(part: list[_Read], end: pb.ExportSessionsResponse) -> EncodedAnswer:
    """Answers laid end to end are one: so protobuf has it."""
    return EncodedAnswer(b"".join([*(read.answer for read in part), end.SerializeToString()]), len(part))


def _check(chosen: ExportFilter, limits: Limits) -> None:
    """Raise InvalidField for what nothing stored can have: an export of it would be empty, and pass for whole."""
    for name, most in (("session_ids", SESSION_IDS_MAX), ("event_types", EVENT_TYPES_MAX)):
        if len(getattr(chosen, name)) > most:
            raise InvalidField.at(f"filter.{name}", f"must be {most} at most")
    for name in ("batch_id", "user_id"):
        if asked := getattr(chosen, name):
            check_id(f"filter.{name}", asked, limits)
    for place, session_id in enumerate(chosen.session_ids):
        check_id(f"filter.session_ids[{place}]", session_id, limits)
    for place, event_type in enumerate(chosen.event_types):
        check_event_type(f"filter.event_types[{place}]", event_type, limits)


def _key_of(chosen: ExportFilter, events_limit: int | None) -> str:
    """Tells whether a token belongs to a filter and a limit of events: the digest is over the events that are sent."""
    asked = repr(chosen) if events_limit is None else repr((chosen, events_limit))
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _token(place: _Place, key: str) -> str:
    content = {"filter": key, "position": place.position, **fields_from_account(place.account)}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def _read_token(token: str, key: str, steps: int) -> _Place:
    try:
        content = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        same_filter = content["filter"] == key
        place = _Place(content["position"], account_from_fields(content))
        if not _is_sound(place, steps):
            raise ValueError
    except (binascii.Error, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise InvalidField.at("resume_token", "is not a token that this service gave out") from error
    if not same_filter:
        raise InvalidField.at("resume_token", "belongs to an export with another filter or events_limit")
    return place


def _is_sound(place: _Place, steps: int) -> bool:
    """Whether a token that was read can be gone on from: whoever forged one is told so, too."""
    account, position = place.account, place.position
    return (
        (position is None or (isinstance(position, list) and len(position) == steps))
        and all(_is_text(step) or _is_whole(step, -(2**63)) for step in position or ())
        and all(_is_whole(count, 0) for count in (account.session_count, account.event_count))
        and all(_is_text(total.currency_code) and _is_sum(total.amount) for total in account.totals)
        and len(account.digest) == len(EMPTY_DIGEST)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and text_fault(value) is None


def _is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number that can be sent, also once this export was added to it."""
    return type(value) is int and least <= value < 2**62


def _is_sum(amount: Decimal) -> bool:
    """Whether stored amounts may come to this. Anything else may take gigabytes, written in plain digits."""
    exponent = amount.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= _EXPONENT_MIN and amount.adjusted() <= _EXPONENT_MAX
