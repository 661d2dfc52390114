"""A log spooled to disk, so that a query's rows and impressions may stand anywhere in a file of any size."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from clickstream.models import SessionEvent
from clickstream_server.failures import StartFailure
from clickstream_server.replay import ubi
from clickstream_server.replay.account import Account
from clickstream_server.replay.lines import ByteLines, Kind, Row, read_rows

_TABLES = """
    PRAGMA journal_mode = OFF;
    CREATE TABLE queries (first_line INTEGER PRIMARY KEY, query_id TEXT NOT NULL UNIQUE);
    CREATE TABLE query_rows (
        line INTEGER PRIMARY KEY, query_id TEXT NOT NULL, hits INTEGER NOT NULL, row TEXT NOT NULL
    );
    CREATE INDEX rows_of_query ON query_rows (query_id);
    CREATE TABLE impressions (
        query_id TEXT, ordinal REAL, line INTEGER, object_id TEXT NOT NULL, PRIMARY KEY (query_id, ordinal, line)
    ) WITHOUT ROWID;
    CREATE TABLE events (line INTEGER PRIMARY KEY, query_id TEXT NOT NULL, row TEXT NOT NULL);
    CREATE INDEX events_of_query ON events (query_id);
    CREATE TABLE unregistered (query_id TEXT PRIMARY KEY);
    BEGIN;
"""

_ROWS_OF_QUERY = """
    SELECT row FROM query_rows WHERE query_id = ?1 ORDER BY
        line != (SELECT line FROM query_rows WHERE query_id = ?1 ORDER BY hits DESC, line LIMIT 1), line
"""
_IMPRESSIONS_OF_QUERY = """
    SELECT query_id, object_id, ordinal FROM impressions WHERE query_id = ? ORDER BY ordinal, line
"""
_EVENTS = """
    SELECT line, row FROM events
    LEFT JOIN queries USING (query_id)
    LEFT JOIN unregistered USING (query_id)
    WHERE (CASE WHEN first_line IS NULL THEN 'unknown' WHEN unregistered.query_id IS NULL THEN 'known'
           ELSE 'unregistered' END) = ?
    ORDER BY line
"""


class EventGroup(StrEnum):
    """Events by what is known of their query. They are sent group by group, so that each has counts of its own."""

    KNOWN = "known"
    UNREGISTERED = "unregistered"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SpooledEvent:
    """An event, the line that it stands in and how many bytes it has there, roughly."""

    line: int
    event: SessionEvent
    size: int


class Spool:
    """The rows of a log that were understood, on disk; see `spooled`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, row: Row) -> None:
        """Keep a row. Raises RowRefused."""
        if row.kind is Kind.QUERY:
            query = ubi.query_row(row.fields)
            self._database.execute("INSERT OR IGNORE INTO queries VALUES (?, ?)", (row.line, query.query_id))
            self._database.execute(
                "INSERT INTO query_rows VALUES (?, ?, ?, ?)", (row.line, query.query_id, len(query.hits), row.text)
            )
            return
        event = ubi.event_of(row.fields)
        self._database.execute("INSERT INTO events VALUES (?, ?, ?)", (row.line, event.session_id, row.text))
        if (shown := ubi.impression_of(event)) is not None:
            # inf: those without a position come last
            self._database.execute(
                "INSERT INTO impressions VALUES (?, ?, ?, ?)",
                (shown.query_id, inf if shown.ordinal is None else shown.ordinal, row.line, shown.object_id),
            )

    def count_queries(self) -> int:
        found: tuple[int] = self._database.execute("SELECT count(*) FROM queries").fetchone()
        return found[0]

    def queries(self) -> Generator[tuple[int, str], None, None]:
        """Each query with the line where it first stands, in the order of these lines. To be closed, as `events`."""
        yield from self._database.execute("SELECT first_line, query_id FROM queries ORDER BY first_line")

    def session(self, query_id: str) -> ubi.MappedQuery:
        """A query's rows and impressions as a session. Raises InvalidField."""
        rows = self._database.execute(_ROWS_OF_QUERY, (query_id,))
        shown = self._database.execute(_IMPRESSIONS_OF_QUERY, (query_id,))
        return ubi.session_of(
            (ubi.query_row(ubi.object_from_json(text)) for (text,) in rows), (ubi.Impression(*found) for found in shown)
        )

    def events_of(self, query_id: str) -> Iterator[SpooledEvent]:
        """The events of one query in the order of the file."""
        for line, text in self._database.execute(
            "SELECT line, row FROM events WHERE query_id = ? ORDER BY line", (query_id,)
        ):
            yield SpooledEvent(line, ubi.event_of(ubi.object_from_json(text)), len(text))

    def row(self, line: int) -> str:
        """The row that stands in this line, as it stands there; empty if none was understood."""
        found = self._database.execute(
            "SELECT row FROM query_rows WHERE line = ?1 UNION ALL SELECT row FROM events WHERE line = ?1", (line,)
        ).fetchone()
        return str(found[0]) if found else ""

    def mark_unregistered(self, query_id: str) -> None:
        """Note that the server refused this query's session."""
        self._database.execute("INSERT OR IGNORE INTO unregistered VALUES (?)", (query_id,))

    def events(self, group: EventGroup) -> Generator[SpooledEvent, None, None]:
        """The events of a group in the order of the file."""
        for line, text in self._database.execute(_EVENTS, (group.value,)):
            yield SpooledEvent(line, ubi.event_of(ubi.object_from_json(text)), len(text))


@contextmanager
def spooled(stream: ByteLines, account: Account, advance: Callable[[int], None]) -> Iterator[Spool]:
    """The log, read to its end and spooled, until the end of the context. Raises OSError, and StartFailure if no room.

    SQLite makes a database without a name as a temporary file that it unlinks at once (in SQLITE_TMPDIR or TMPDIR):
    however the program ends, nothing stays behind.
    """
    try:
        with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as database:
            database.executescript(_TABLES)
            spool = Spool(database)
            for row in read_rows(stream, account, advance):
                try:
                    spool.add(row)
                except ubi.RowRefused as refused:
                    account.notes.add("row", refused.reason, row.line)
                    continue
                if row.kind is Kind.QUERY:
                    account.query_rows += 1
                else:
                    account.event_rows += 1
            account.queries = spool.count_queries()
            yield spool
    except sqlite3.Error as error:
        raise StartFailure(f"the log cannot be spooled to a temporary file (TMPDIR says where): {error}") from error
