"""What became of a file: the counts, the reasons, and of a log the proof that they add up."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass, field

from clickstream.transfer import OutcomeCounts
from clickstream_server.bulk.ubi.lines import LineCounts

LINES_SHOWN = 5
REASONS_MAX = 100
"""Reasons are few by design; if a server words one for each row, those past this are counted together."""

_OTHER = "other reasons"
_VALUES = {
    r"\[[0-9]+\]": "[]",
    r", not [0-9]+\b": "",
    r" at column [0-9]+": "",
    r" \(byte [0-9]+ of the line\)": "",
    r"\bin line [0-9]+ already": "in an earlier line already",
}
"""What differs in reasons from row to row, and what stands there when they are counted."""


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
    """Notes by what it happened to (`row`, of a log also `query` and `event`) and why."""

    def add(self, what: str, reason: str, line: int) -> None:
        key = (what, _without_values(reason))
        if key not in self and len(self) >= REASONS_MAX:
            key = (what, _OTHER)
        self.setdefault(key, Note()).add(line)

    def count(self, what: str) -> int:
        return sum(note.count for (kind, _), note in self.items() if kind == what)


@dataclass(slots=True)
class LogAccount:
    """What a search log holds. Every line is one of five kinds, every query and every event has one outcome."""

    counts: LineCounts = field(default_factory=LineCounts)
    query_rows: int = 0
    event_rows: int = 0
    refused_rows: int = 0
    """Rows that were not understood."""
    queries: int = 0
    refused_queries: int = 0
    refused_events: int = 0
    refused_strays: int = 0
    """That were understood, and could not be sent. The last: events whose query is not in this file."""
    events_of_queries: OutcomeCounts = field(default_factory=OutcomeCounts)
    """Events whose query is in this file. What is more of all events is of other queries."""
    orphaned: int = 0
    """Of these, how many are stored though their query was refused."""
    rows_left_out: Note = field(default_factory=Note)
    """Further rows of a query that had no room in its `search_meta`, by the query's first line."""


@dataclass(slots=True)
class FileAccount:
    """What became of one file. `refused`: rows that were not sent; `failed_rows`: those that the server refused, in
    whole or in part. `fault`: why it cannot be said that all of the file was there. `complete`: it was all sent.
    `connections`: over how many.
    """

    name: str
    refused: int = 0
    failed_rows: int = 0
    sessions: OutcomeCounts = field(default_factory=OutcomeCounts)
    events: OutcomeCounts = field(default_factory=OutcomeCounts)
    fault: str | None = None
    complete: bool = False
    connections: int = 1
    notes: Notes = field(default_factory=Notes)
    log: LogAccount | None = None

    @property
    def not_stored(self) -> int:
        """Rows that were refused or are in conflict, in whole or in part."""
        return self.refused + self.failed_rows


def stray_events(account: FileAccount, log: LogAccount) -> OutcomeCounts:
    """What became of the events whose query is not in the file."""
    of_queries = astuple(log.events_of_queries)
    return OutcomeCounts(
        *(every - of_query for every, of_query in zip(astuple(account.events), of_queries, strict=True))
    )


def disagreements(account: FileAccount, log: LogAccount) -> list[str]:
    """The sums that do not agree once all was sent. There are none, or the program is wrong."""
    kinds = log.counts.actions + log.counts.blank + log.query_rows + log.event_rows + log.refused_rows
    sessions, events = account.sessions, account.events
    sums = {
        "lines and their kinds": (log.counts.lines, kinds),
        "queries and the outcomes of their sessions": (log.queries, sessions.total + log.refused_queries),
        "events and their outcomes": (log.event_rows, events.total + log.refused_events + log.refused_strays),
        "queries that were not stored and the reasons": (
            sessions.rejected + sessions.conflicts + log.refused_queries,
            account.notes.count("query"),
        ),
        "events that were not stored and the reasons": (
            events.rejected + events.conflicts + log.refused_events + log.refused_strays,
            account.notes.count("event"),
        ),
    }
    return [f"{what}: {one:,} and {other:,}" for what, (one, other) in sums.items() if one != other]


def _without_values(reason: str) -> str:
    """The reason without places and sizes, each part of it once: it is for counting."""
    for value, instead in _VALUES.items():
        reason = re.sub(value, instead, reason)
    return "; ".join(dict.fromkeys(reason.split("; ")))
