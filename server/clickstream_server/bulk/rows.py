"""What the rows of a file become: items that can be sent, and refusals, each with the lines where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from clickstream.errors import InvalidField
from clickstream.models import Session, SessionEvent
from clickstream.transfer import ImportItem

PARTS_PER_ITEM = 5_000
"""A session with more events than this is sent in several items: a chunk may have 10,000 events."""

WEIGHT_MAX = 4 * 1024 * 1024
"""Of an item, and of what is sent at once, whatever a message may have."""

VALUES_MAX = 2_000_000
"""Of a line: each may take a kilobyte of memory, or more if it is wrong. A session that a message has room for has some
hundred thousand, whatever its events.
"""

_ROW_KEPT_BYTES = 4096
_WEIGHT_OF_VALUE = 20
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""The last may have no end: else the search would begin anew at each quotation mark in it."""


class SourceRow(NamedTuple):
    """A row as it stands in a file."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows that were not stored, and why: one, or all those of a query. `reason` is a stable code.

    `what`: what was refused, in a word: the row, or of a log a query or an event.
    """

    rows: tuple[SourceRow, ...]
    reason: str
    message: str
    what: str = "row"

    @property
    def line(self) -> int:
        return self.rows[0].line


@dataclass(frozen=True, slots=True)
class Sendable:
    """An item, the rows that it comes from, and its weight (see `weight_of`).

    `rows`: those of the session. `first_event`: the place, in the row, of the first event of the item. Of a log,
    `event_rows`: the row of each event; `stray`: there is no query for these events in the file; `orphaned`: there is,
    and it was refused.
    """

    item: ImportItem
    weight: int
    rows: tuple[SourceRow, ...]
    first_event: int = 0
    event_rows: tuple[SourceRow, ...] = ()
    stray: bool = False
    orphaned: bool = False


@dataclass(slots=True)
class Ending:
    """What is known of a file at its end, and of `understood`, the rows that can be used, while a log is read.

    `fault`: why it cannot be said that all of it was there.
    """

    understood: int = 0
    fault: str | None = None


class Rows(Protocol):
    """The rows of one file."""

    ending: Ending

    def read(self) -> Iterator[Sendable | Refusal]:
        """What becomes of them, in an order of its own; to be read once, by one thread at a time."""


def kept_text(raw: bytes, *, whole: bool = True) -> str:
    """The text of a line to be shown, whatever is wrong with it; the beginning only if it is not whole."""
    return (raw if whole else raw[:_ROW_KEPT_BYTES]).decode(errors="replace").rstrip("\r\n")


def weight_of(json_bytes: bytes) -> int:
    """How many bytes this JSON has in a message, at most.

    Each member of an object or a list has up to 20 bytes around it there: `[1,1,1]` grows fivefold.
    """
    return len(json_bytes) + _WEIGHT_OF_VALUE * _values_in(json_bytes)


def has_too_many_values(json_bytes: bytes) -> bool:
    """Whether this JSON is not to be parsed. Text may have any number of commas."""
    return _values_in(json_bytes) > VALUES_MAX and _values_in(_TEXTS.sub(b"", json_bytes)) > VALUES_MAX


def _values_in(json_bytes: bytes) -> int:
    """How many values this JSON has, at most, without parsing it."""
    return json_bytes.count(b",") + json_bytes.count(b"{") + json_bytes.count(b"[")


# --- large sessions ---------------------------------------------------------------------------------------------------


def weight_max_for(message_bytes_max: int) -> int:
    """How heavy an item, and what is sent at once, may be where a message has so many bytes at most."""
    return min(WEIGHT_MAX, message_bytes_max // 2)


def items_of(whole: Sendable, *, atomic: bool, weight_max: int) -> Iterator[Sendable]:
    """The item, or several that a message has room for: a session and some of its events, then events alone.

    Raises InvalidField where that cannot be.
    """
    events = whole.item.events
    if len(events) <= PARTS_PER_ITEM and whole.weight <= weight_max:
        yield whole
        return
    session = whole.item.session
    pieces = list(_pieces(session if isinstance(session, Session) else None, events, weight_max))
    if atomic and len(pieces) > 1:
        raise too_large_for_one(weight_max)
    at = 0
    for number, (piece, weight) in enumerate(pieces):
        item = ImportItem(session if number == 0 else None, piece)
        yield Sendable(item, weight, whole.rows, at)
        at += len(piece)


def _pieces(
    session: Session | None, events: Iterable[object], weight_max: int
) -> Iterator[tuple[list[SessionEvent], int]]:
    piece: list[SessionEvent] = []
    total = 0 if session is None else checked_weight("session", session, weight_max)
    for place, event in enumerate(events):
        assert isinstance(event, SessionEvent)
        if session is not None and event.session_id != session.session_id:
            if event.session_id:  # of an event that is sent alone the server could not tell
                raise InvalidField.at(f"events[{place}].session_id", "must be that of the row's session, or empty")
            event = event.model_copy(update={"session_id": session.session_id})  # noqa: PLW2901  # it may be sent alone
        weight = checked_weight(f"events[{place}]", event, weight_max)
        if total and (len(piece) == PARTS_PER_ITEM or total + weight > weight_max):
            yield piece, total
            piece, total = [], 0
        piece.append(event)
        total += weight
    yield piece, total


def checked_weight(path: str, part: Session | SessionEvent, weight_max: int) -> int:
    """The weight of a session or an event. Raises InvalidField if no message has room for it."""
    weight = weight_of(part.model_dump_json(exclude_defaults=True).encode())
    if weight > weight_max:
        raise InvalidField.at(path, f"is too large for a message: {_shown(weight_max)} at most")
    return weight


def too_large_for_one(weight_max: int) -> InvalidField:
    """The error for a session that can be sent in several items only."""
    return InvalidField.at(
        "events",
        f"a session with {PARTS_PER_ITEM:,} events or {_shown(weight_max)} as a message at most can be stored as "
        "one (--atomic)",
    )


def _shown(size: int) -> str:
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size / 2**10:.3g} KiB"
