"""Our own JSON Lines form <-> models: one session a line, and a trailer at the end. Pure functions in pairs.

A line is an object with `session`, `events`, `event_count` and `totals`, fields named as in the proto and in that
order, keys inside free JSON sorted, times in RFC 3339 with microseconds, amounts as text. Optional fields that are
unset are left out, all others stand always. So equal sessions are equal bytes. With its place a line also has
`batch_id`, `session_number` and `registered_at`. What the server counts and gives out anew is known when a line is
read, and ignored; a field that is not known refuses the line.

The last line is `{"trailer": {"sessions", "events", "totals", "sha256"}}`, where `sha256` is that of all bytes before
it, from the start or from the trailer before: files that are put together stay valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from clickstream.errors import FieldViolation, InvalidField
from clickstream.export import ExportAccount, ExportedSession
from clickstream.models import Money, SearchResultItem, Session, SessionEvent
from clickstream.transfer import ImportItem
from clickstream.validation import WORDS, invalid_field
from clickstream.values import Text

_PLAIN_DIGITS = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DIGITS = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
_MOMENT_OF_DIGITS = re.compile(rf'"created_at"\s*:\s*"{_DIGITS.pattern}"')
_TRAILER_START = re.compile(rb'\s*\{\s*"trailer"\s*:')


# --- one session ------------------------------------------------------------------------------------------------------


def line_from_session(exported: ExportedSession, *, with_place: bool = False) -> bytes:
    """The line that holds this session, with its end."""
    return line_from_row(row_from_session(exported, with_place=with_place))


def line_from_row(row: dict[str, Any]) -> bytes:
    """The line that holds this object, with its end."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def row_from_session(exported: ExportedSession, *, with_place: bool = False) -> dict[str, Any]:
    """The object that a line holds."""
    found = exported.session
    row: dict[str, Any] = {"session": _session_fields(found.session)}
    if with_place:
        row["batch_id"] = found.batch_id
        row["session_number"] = found.session_number
        row["registered_at"] = moment_text(found.registered_at)
    row["events"] = [_event_fields(event) for event in found.events]
    row["event_count"] = found.event_count
    row["totals"] = totals_fields(exported.totals)
    return row


def _session_fields(session: Session) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "session_id": session.session_id,
        "search_query": in_order(session.search_query),
        "search_results": list(map(_result_fields, session.search_results)),
        "search_meta": in_order(session.search_meta),
        "payload_filter": in_order(session.payload_filter),
        "sort_by": None if session.sort_by is None else session.sort_by.model_dump(mode="json"),
        "user_id": session.user_id,
        "created_at": None if session.created_at is None else moment_text(session.created_at),
        "is_irrelevant": session.is_irrelevant,
        "is_payload_search": session.is_payload_search,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _result_fields(item: SearchResultItem) -> dict[str, Any]:
    fields: dict[str, Any] = {"object_id": item.object_id}
    if item.rank is not None:
        fields["rank"] = item.rank
    fields["meta"] = in_order(item.meta)
    return fields


def _event_fields(event: SessionEvent) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "object_id": event.object_id,
        "event_type": event.event_type,
    }
    if event.created_at is not None:
        fields["created_at"] = moment_text(event.created_at)
    fields["meta"] = in_order(event.meta)
    if event.value is not None:
        fields["value"] = _money_fields(event.value)
    return fields


def totals_fields(totals: Iterable[Money]) -> list[dict[str, str]]:
    return [_money_fields(total) for total in totals]


def _money_fields(money: Money) -> dict[str, str]:
    return {"currency_code": money.currency_code, "amount": money.text}


def in_order(value: Any) -> Any:
    """Free JSON with sorted keys: a protobuf Struct has no order of its own."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)} if value else value
    if isinstance(value, list):
        return [in_order(item) for item in value]
    return value


def moment_text(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: `2026-11-21T08:00:00.000000Z`."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


# --- reading ----------------------------------------------------------------------------------------------------------


class _Event(SessionEvent):
    """An event in a line: its session is the line's, unless it says otherwise, which the server then refuses."""

    session_id: Text = ""

    @field_validator("value", mode="before")
    @classmethod
    def _amount_is_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        amount = value.get("amount", "")
        if not isinstance(amount, str):
            raise ValueError('must have its amount as text, such as "12.50"')
        # Behind this validator Pydantic takes no text for a Decimal any more; text that is none is left to Money.
        return value | {"amount": Decimal(amount)} if _PLAIN_DIGITS.fullmatch(amount) else value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Row(_Strict):
    session: Session
    batch_id: Any = None
    session_number: Any = None
    registered_at: Any = None
    events: tuple[_Event, ...] = ()
    event_count: Any = None
    totals: Any = None


class BrokenLine(Exception):
    """A line is not JSON."""


@dataclass(frozen=True, slots=True)
class ReadRow:
    """What a line holds. `exported`: it has what only an export writes, so a trailer must follow."""

    item: ImportItem
    exported: bool


def row_from_line(text: str) -> ReadRow:
    """The session with its events that a line holds. Raises BrokenLine, or InvalidField with paths as in the line."""
    try:
        row = _Row.model_validate_json(text, strict=True)
    except ValidationError as error:
        found = _fault(error)
        raise BrokenLine(found.message) if error.errors()[0]["type"] == "json_invalid" else found from None
    if _MOMENT_OF_DIGITS.search(text):
        _check_moments(json.loads(text))
    return ReadRow(ImportItem(row.session, row.events), row.event_count is not None)


def _fault(error: ValidationError) -> InvalidField:
    """What is wrong. To the parser a line is all that there is: its "line 1" would be taken for a line of the file."""
    return InvalidField.of(
        FieldViolation(path, description.replace(" at line 1 column ", " at column "))
        for path, description in invalid_field(error).violations
    )


def _check_moments(row: dict[str, Any]) -> None:
    """Raise InvalidField for times of digits alone, which Pydantic takes for seconds or milliseconds since 1970.

    So 20190501 would be a day in 1970.
    """
    parts = [("session", row["session"]), *((f"events[{n}]", event) for n, event in enumerate(row.get("events", ())))]
    found = [
        FieldViolation(f"{path}.created_at", WORDS["datetime_parsing"])
        for path, part in parts
        if _DIGITS.fullmatch(part.get("created_at") or "")
    ]
    if found:
        raise InvalidField.of(found)


# --- the trailer ------------------------------------------------------------------------------------------------------


class _Total(_Strict):
    currency_code: str
    amount: str


class Trailer(_Strict):
    """What the lines before it hold."""

    sessions: int = Field(ge=0)
    events: int = Field(ge=0)
    totals: tuple[_Total, ...]
    sha256: str


class _TrailerRow(_Strict):
    trailer: Trailer


def is_trailer(line: bytes) -> bool:
    return _TRAILER_START.match(line) is not None


def line_from_trailer(account: ExportAccount, sha256: str) -> bytes:
    """The last line of an export."""
    trailer = {
        "sessions": account.session_count,
        "events": account.event_count,
        "totals": totals_fields(account.totals),
        "sha256": sha256,
    }
    return orjson.dumps({"trailer": trailer}, option=orjson.OPT_APPEND_NEWLINE)


def trailer_from_line(text: str) -> Trailer:
    """Raises InvalidField."""
    try:
        return _TrailerRow.model_validate_json(text, strict=True).trailer
    except ValidationError as error:
        raise _fault(error) from None
