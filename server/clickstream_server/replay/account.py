"""What became of every line of a log: the counts, the reasons, and the proof that they add up."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from clickstream.models import PushResult, WriteOutcome

LINES_SHOWN = 5
REASONS_MAX = 100
"""Reasons are few by design; if a server words one for each row, those past this are counted together."""

_OTHER = "other reasons"


@dataclass(slots=True)
class Note:
    """How often something happened, and where first."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int, count: int = 1) -> None:
        self.count += count
        if len(self.lines) < LINES_SHOWN:
            self.lines.append(line)


class Notes(dict[tuple[str, str], Note]):
    """Notes by what it happened to (`row`, `query`, `event`) and why."""

    def add(self, what: str, reason: str, line: int) -> None:
        key = (what, _without_values(reason))
        if key not in self and len(self) >= REASONS_MAX:
            key = (what, _OTHER)
        self.setdefault(key, Note()).add(line)

    def count(self, what: str) -> int:
        return sum(note.count for (kind, _), note in self.items() if kind == what)


@dataclass(slots=True)
class Outcomes:
    """What the server said to each of a number of things."""

    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        return self.inserted + self.duplicates + self.conflicts + self.refused

    def add(self, outcome: WriteOutcome) -> None:
        match outcome:
            case WriteOutcome.INSERTED:
                self.inserted += 1
            case WriteOutcome.DUPLICATE:
                self.duplicates += 1
            case WriteOutcome.CONFLICT:
                self.conflicts += 1
            case WriteOutcome.REJECTED:
                self.refused += 1

    def add_all(self, result: PushResult) -> None:
        self.inserted += result.inserted
        self.duplicates += result.duplicates
        self.conflicts += result.conflicts
        self.refused += result.rejected


@dataclass(slots=True)
class NumberRange:
    """The numbers that new sessions were given in one batch."""

    first: int
    last: int
    count: int = 1


@dataclass(slots=True)
class Account:
    """The counts of one replay. Every line is one of five kinds, every query and every event has one outcome."""

    # Of the file.
    lines: int = 0
    blank_lines: int = 0
    action_lines: int = 0
    query_rows: int = 0
    event_rows: int = 0
    queries: int = 0

    # Of the server.
    sessions: Outcomes = field(default_factory=Outcomes)
    known_events: Outcomes = field(default_factory=Outcomes)
    """Of queries that are in this file and registered."""
    unregistered_events: Outcomes = field(default_factory=Outcomes)
    """Of queries that are in this file and were refused."""
    unknown_events: Outcomes = field(default_factory=Outcomes)
    """Of queries that are not in this file."""

    notes: Notes = field(default_factory=Notes)
    """What was refused, or is in conflict, and why."""
    rows_left_out: Note = field(default_factory=Note)
    """Further rows of a query that had no room in its `search_meta`, by the query's first line."""
    batches: dict[str, NumberRange] = field(default_factory=dict)

    @property
    def refused_rows(self) -> int:
        """Rows that were not understood, and so were not sent."""
        return self.notes.count("row")

    @property
    def further_rows(self) -> int:
        return self.query_rows - self.queries

    @property
    def events_sent(self) -> int:
        return self.known_events.total + self.unregistered_events.total + self.unknown_events.total

    @property
    def not_stored(self) -> int:
        """Rows, queries and events that were refused or are in conflict."""
        return sum(note.count for note in self.notes.values())

    def numbered(self, batch_id: str, number: int) -> None:
        """A new session has this number in this batch."""
        known = self.batches.get(batch_id)
        if known is None:
            self.batches[batch_id] = NumberRange(number, number)
            return
        known.first, known.last = min(known.first, number), max(known.last, number)
        known.count += 1

    def disagreements(self) -> list[str]:
        """The sums that do not agree. There are none, or the program is wrong."""
        kinds = self.action_lines + self.blank_lines + self.query_rows + self.event_rows + self.refused_rows
        refused = self.sessions.refused + self.sessions.conflicts
        events = (self.known_events, self.unregistered_events, self.unknown_events)
        sums = {
            "lines and their kinds": (self.lines, kinds),
            "queries and the outcomes of their sessions": (self.queries, self.sessions.total),
            "events and their outcomes": (self.event_rows, self.events_sent),
            "queries that were not stored and the reasons": (refused, self.notes.count("query")),
            "events that were not stored and the reasons": (
                sum(each.refused + each.conflicts for each in events),
                self.notes.count("event"),
            ),
            "new sessions and their numbers": (
                self.sessions.inserted,
                sum(numbers.count for numbers in self.batches.values()),
            ),
        }
        return [f"{what}: {one:,} and {other:,}" for what, (one, other) in sums.items() if one != other]


def _without_values(reason: str) -> str:
    """The reason without places and sizes, which differ from row to row: it is for counting."""
    reason = re.sub(r"\[[0-9]+\]", "[]", reason)
    return re.sub(r", not [0-9]+\b", "", reason)
