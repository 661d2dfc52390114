"""Rows of a UBI log -> Session and SessionEvent. Pure.

UBI (User Behavior Insights, https://o19s.github.io/ubi/docs/html/1.0.0/) has two kinds of row: a query, with
`query_id`, `user_query` and perhaps `query_response_hit_ids`, and an event, with `action_name` and the `query_id` that
it belongs to. A query becomes a session, with what it showed; each event becomes an event of that session. What has no
field of its own is kept in `search_meta` or `meta`, under the name that it has in the log. Nothing depends on the
moment of the import, so that a second one finds everything stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from clickstream.errors import InvalidField
from clickstream.models import SearchResultItem, Session, SessionEvent
from clickstream.validation import invalid_field
from clickstream.values import INTEGER_MAX, JsonObject, datetime_from_micros
from clickstream_server.canonical import canonical_json

IMPRESSION = "impression"
SEARCH_META_BYTES_MAX = 64 * 1024
"""The contract's limit for `search_meta`: further rows of a query are kept in it as long as they fit."""

_EARLIEST = datetime(1995, 1, 1, tzinfo=UTC)
"""Before this nobody logged searches: such a timestamp is a unit mistaken (seconds for milliseconds), not a moment."""

_ROOM_FOR_NAMES = 128  # the keys `further_rows` and `further_rows_left_out`, and the count
_storable = TypeAdapter[dict[str, Any]](JsonObject)


class RowRefused(ValueError):
    """A row cannot be used. `reason` holds no values of the row: queries are personal data, and reasons are counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class QueryRow:
    """One row of a query; there may be several. `fields` is the row as it was logged, `hits` what it showed."""

    query_id: str
    created_at: datetime
    hits: tuple[str, ...]
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Impression:
    """One object that a query showed, as an event tells it. `ordinal` None: its position was not logged."""

    query_id: str
    object_id: str
    ordinal: float | None


@dataclass(frozen=True, slots=True)
class MappedQuery:
    """A query as a session, and how many of its rows found no room in `search_meta`."""

    session: Session
    rows_left_out: int


# --- JSON -------------------------------------------------------------------------------------------------------------


def object_from_json(text: str) -> dict[str, Any]:
    """The JSON object that a line holds. Whole numbers beyond 2^53, which doubles would round, become text."""
    try:
        value = json.loads(text, parse_constant=_not_json, parse_int=_exact)
    except RecursionError:
        raise RowRefused("nested too deeply") from None
    except json.JSONDecodeError:
        raise RowRefused("not JSON") from None
    if not isinstance(value, dict):
        raise RowRefused("JSON, but not an object")
    return value


def _not_json(_: str) -> NoReturn:
    raise RowRefused("holds NaN or Infinity, which JSON does not have")


def _exact(digits: str) -> int | str:
    if len(digits) > 17:  # more than 2^53 has, with a sign; int() of very many digits is slow and limited
        return digits
    number = int(digits)
    return number if -INTEGER_MAX <= number <= INTEGER_MAX else digits


def text_of(value: Any) -> str | None:
    """An id or a query that may have been logged as a number, as text; None for anything else, and for blank text."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return str(int(value)) if float(value).is_integer() else repr(value)


# --- moments ----------------------------------------------------------------------------------------------------------


def moment_of(timestamp: Any) -> datetime:
    """ISO 8601 text (without a zone: UTC), or milliseconds since 1970 as a number or as digits."""
    if timestamp is None or timestamp == "":
        raise RowRefused("timestamp is missing")
    moment = _moment(timestamp.strip() if isinstance(timestamp, str) else timestamp)
    if moment is None:
        raise RowRefused("timestamp is neither ISO 8601 nor milliseconds since 1970")
    if moment < _EARLIEST:
        raise RowRefused(f"timestamp lies before {_EARLIEST.year} (milliseconds since 1970 are expected)")
    return moment


def _moment(timestamp: Any) -> datetime | None:
    if isinstance(timestamp, str) and not re.fullmatch(r"[+-]?[0-9]+", timestamp):
        try:
            parsed = datetime.fromisoformat(timestamp)
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        except (ValueError, OverflowError):
            return None
    if isinstance(timestamp, bool) or not isinstance(timestamp, str | int | float):
        return None
    try:
        millis = float(timestamp) if isinstance(timestamp, float) else int(timestamp)
        return datetime_from_micros(round(millis * 1000))
    except (ValueError, OverflowError):  # too many digits, not finite, or past the year 9999
        return None


def _is_cut(timestamp: Any) -> bool:
    """Whether the timestamp is finer than the microseconds that are kept of it."""
    return isinstance(timestamp, str) and re.search(r"[.,][0-9]{6}[0-9]*[1-9]", timestamp) is not None


# --- rows -------------------------------------------------------------------------------------------------------------


def query_row(row: dict[str, Any]) -> QueryRow:
    """A row of a query. Raises RowRefused."""
    query_id = _query_id(row)
    hits = row.get("query_response_hit_ids")
    if hits is not None and not isinstance(hits, list):
        raise RowRefused("query_response_hit_ids is not a list")
    ids = [text_of(hit) for hit in hits or ()]
    if None in ids:
        raise RowRefused("query_response_hit_ids holds something that is not an id")
    created_at = moment_of(row.get("timestamp"))
    try:
        fields = _storable.validate_python(row)
    except ValidationError as error:
        raise _refused(invalid_field(error)) from None
    return QueryRow(query_id, created_at, tuple(hit for hit in ids if hit is not None), fields)


def event_of(row: dict[str, Any]) -> SessionEvent:
    """A row of an event, without an id: the server derives it from the content. Raises RowRefused."""
    query_id = _query_id(row)
    action = row.get("action_name")
    if not isinstance(action, str) or not action.strip():
        raise RowRefused("action_name is missing")
    timestamp = row.get("timestamp")
    dropped = {"query_id", "action_name"} if _is_cut(timestamp) else {"query_id", "action_name", "timestamp"}
    fields = {
        "session_id": query_id,
        "object_id": text_of(_inner(row, "event_attributes", "object", "object_id")) or "",
        "event_type": action,
        "created_at": moment_of(timestamp),
        "meta": {name: value for name, value in row.items() if name not in dropped},
    }
    try:
        return SessionEvent.model_validate(fields)
    except ValidationError as error:
        raise _refused(invalid_field(error)) from None


def impression_of(event: SessionEvent) -> Impression | None:
    """What the event says that its query showed, if it does."""
    if event.event_type != IMPRESSION or not event.object_id:
        return None
    ordinal = text_of(_inner(event.meta, "event_attributes", "position", "ordinal"))
    try:
        place = float(ordinal) if ordinal is not None else None
    except ValueError:
        place = None
    return Impression(event.session_id, event.object_id, place if place is not None and isfinite(place) else None)


def _query_id(row: dict[str, Any]) -> str:
    query_id = text_of(row.get("query_id"))
    if query_id is None:
        raise RowRefused("query_id is missing")
    return query_id


def _inner(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _refused(error: InvalidField) -> RowRefused:
    return RowRefused(error.violations[0].description)


# --- a query's rows as one session ------------------------------------------------------------------------------------


def session_of(rows: Iterable[QueryRow], shown: Iterable[Impression]) -> MappedQuery:
    """The session of a query. Raises InvalidField.

    `rows`: the one with the most hits first (the first of these in the file), then the others as they stand in the
    file. `shown`: its impressions by ordinal, those without one last, otherwise as they stand in the file. Rows are
    read one by one, and what differs in the further ones is kept while there is room for it.
    """
    remaining = iter(rows)
    first = next(remaining)
    earliest, query, user_id = first.created_at, _query(first), _user_id(first)
    hits = first.hits or tuple(dict.fromkeys(impression.object_id for impression in shown))
    taken = {"query_id"} | ({"query_response_hit_ids"} if first.hits else set())
    if query == first.fields.get("user_query"):
        taken.add("user_query")
    meta = {name: value for name, value in first.fields.items() if name not in taken}
    room = SEARCH_META_BYTES_MAX - _ROOM_FOR_NAMES - len(canonical_json(meta))
    further: list[dict[str, Any]] = []
    left_out = 0
    for row in remaining:
        earliest = min(earliest, row.created_at)
        query = query or _query(row)
        user_id = user_id or _user_id(row)
        if not (differing := _differing(row.fields, first.fields)):
            continue
        size = len(canonical_json(differing)) + 1
        if size > room:
            left_out += 1
            continue
        room -= size
        further.append(differing)
    if earliest == first.created_at and not _is_cut(first.fields["timestamp"]):
        del meta["timestamp"]
    if further:
        meta["further_rows"] = further
    if left_out:
        meta["further_rows_left_out"] = left_out
    try:
        session = Session(
            session_id=first.query_id,
            search_query=query,
            search_results=tuple(SearchResultItem(object_id=hit, rank=float(rank)) for rank, hit in enumerate(hits)),
            search_meta=meta,
            user_id=user_id,
            created_at=earliest,
        )
    except ValidationError as error:
        raise invalid_field(error) from None
    return MappedQuery(session, left_out)


def _query(row: QueryRow) -> Any:
    query = row.fields.get("user_query")
    return query if isinstance(query, str | dict | list) else text_of(query)


def _user_id(row: QueryRow) -> str | None:
    return text_of(row.fields.get("client_id")) or text_of(row.fields.get("user_id"))


def _differing(fields: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """What a further row has that the first has not, or has otherwise (true is not 1, though Python says so)."""
    return {
        name: value
        for name, value in fields.items()
        if name not in first or canonical_json(value) != canonical_json(first[name])
    }
