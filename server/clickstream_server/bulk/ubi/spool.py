"""A log spooled to disk, so that a query's rows and impressions may stand anywhere in a file of any size."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import inf

from clickstream.models import SessionEvent
from clickstream_server.bulk.rows import SourceRow
from clickstream_server.bulk.ubi import mapping
from clickstream_server.bulk.ubi.lines import Kind, Row
from clickstream_server.failures import StartFailure

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
    CREATE TABLE refused (query_id TEXT PRIMARY KEY);
    BEGIN;
"""

_ROWS_OF_QUERY = """
    SELECT row FROM query_rows WHERE query_id = :query_id ORDER BY
        line != (SELECT line FROM query_rows WHERE query_id = :query_id ORDER BY hits DESC, line LIMIT 1), line
"""
_IMPRESSIONS_OF_QUERY = """
    SELECT query_id, object_id, ordinal FROM impressions WHERE query_id = ? ORDER BY ordinal, line
"""
_EVENTS_OF_QUERY = "SELECT line, row FROM events WHERE query_id = ? ORDER BY line"
_EVENTS_OF_NO_QUERY = """
    SELECT line, row FROM events LEFT JOIN queries USING (query_id) WHERE first_line IS NULL ORDER BY line
"""


@dataclass(frozen=True, slots=True)
class SpooledEvent:
    """An event and the row that it stands in."""

    event: SessionEvent
    row: SourceRow


class Spool:
    """The rows of a log that were understood, on disk; see `spooling`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add(self, row: Row) -> None:
        """Keep a row. Raises RowRefused."""
        if row.kind is Kind.QUERY:
            query = mapping.query_row(row.fields)
            self._database.execute("INSERT OR IGNORE INTO queries VALUES (?, ?)", (row.line, query.query_id))
            self._database.execute(
                "INSERT INTO query_rows VALUES (?, ?, ?, ?)", (row.line, query.query_id, len(query.hits), row.text)
            )
            return
        event = mapping.event_of(row.fields)
        self._database.execute("INSERT INTO events VALUES (?, ?, ?)", (row.line, event.session_id, row.text))
        if (shown := mapping.impression_of(event)) is not None:
            # inf: those without a position come last
            self._database.execute(
                "INSERT INTO impressions VALUES (?, ?, ?, ?)",
                (shown.query_id, inf if shown.ordinal is None else shown.ordinal, row.line, shown.object_id),
            )

    def note_refused_row(self, query_id: str) -> None:
        """Remember that a row of this query was refused."""
        self._database.execute("INSERT OR IGNORE INTO refused VALUES (?)", (query_id,))

    def has_refused_row(self, query_id: str) -> bool:
        found = self._database.execute("SELECT 1 FROM refused WHERE query_id = ?", (query_id,)).fetchone()
        return found is not None

    def count_queries(self) -> int:
        found: tuple[int] = self._database.execute("SELECT count(*) FROM queries").fetchone()
        return found[0]

    def queries(self) -> Generator[str, None, None]:
        """Each query, in the order of the lines where they first stand. To be closed, as all that are generated."""
        for (query_id,) in self._database.execute("SELECT query_id FROM queries ORDER BY first_line"):
            yield query_id

    def rows_of(self, query_id: str) -> Generator[SourceRow, None, None]:
        """The rows of a query itself, in the order of the file."""
        found = self._database.execute("SELECT line, row FROM query_rows WHERE query_id = ? ORDER BY line", (query_id,))
        for line, text in found:
            yield SourceRow(line, text)

    def session(self, query_id: str) -> mapping.MappedQuery:
        """A query's rows and impressions as a session. Raises InvalidField."""
        rows = self._database.execute(_ROWS_OF_QUERY, {"query_id": query_id})
        shown = self._database.execute(_IMPRESSIONS_OF_QUERY, (query_id,))
        return mapping.session_of(
            (mapping.query_row(mapping.object_from_json(text)) for (text,) in rows),
            (mapping.Impression(*found) for found in shown),
        )

    def events_of(self, query_id: str) -> Generator[SpooledEvent, None, None]:
        """The events of one query in the order of the file."""
        return self._events(_EVENTS_OF_QUERY, query_id)

    def stray_events(self) -> Generator[SpooledEvent, None, None]:
        """The events whose query has no row in the file, in the order of the file."""
        return self._events(_EVENTS_OF_NO_QUERY)

    def _events(self, select: str, *values: str) -> Generator[SpooledEvent, None, None]:
        for line, text in self._database.execute(select, values):
            yield SpooledEvent(mapping.event_of(mapping.object_from_json(text)), SourceRow(line, text))


@contextmanager
def spooling() -> Iterator[Spool]:
    """An empty spool until the end of the context. Raises StartFailure if there is no room.

    SQLite makes a database without a name as a temporary file that it unlinks at once (in SQLITE_TMPDIR or TMPDIR):
    however the program ends, nothing stays behind.
    """
    try:
        # Rows are read in one thread after the other, never in two at a time.
        with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as database:
            database.executescript(_TABLES)
            yield Spool(database)
    except sqlite3.Error as error:
        raise StartFailure(f"the log cannot be spooled to a temporary file (TMPDIR says where): {error}") from error
