"""The rows of a UBI log -> what can be sent: each query with its events, then the events of other queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from clickstream.errors import InvalidField
from clickstream.models import Session
from clickstream.transfer import ImportItem
from clickstream_server.bulk.account import LogAccount
from clickstream_server.bulk.rows import (
    PARTS_PER_ITEM,
    WEIGHT_MAX,
    Ending,
    Refusal,
    Sendable,
    SourceRow,
    checked_weight,
    too_large_for_one,
    weight_of,
)
from clickstream_server.bulk.sources import Lines
from clickstream_server.bulk.ubi.lines import Kind, RefusedRow, Row, read_rows
from clickstream_server.bulk.ubi.mapping import RowRefused
from clickstream_server.bulk.ubi.spool import Spool, SpooledEvent, spooling

_ROWS_OF_QUERY_BYTES_MAX = 1024 * 1024
"""So much of a query's own rows is held, to be shown if it is refused. The first is held in any case."""

_NO_ROWS = "nothing in it is a row of a search log in the UBI format"


class UbiRows:
    """The rows of a UBI log. All of it is read, and spooled to disk, before the first can be sent."""

    def __init__(self, lines: Lines, log: LogAccount, *, atomic: bool, weight_max: int = WEIGHT_MAX) -> None:
        self.ending = Ending()
        self._lines = lines
        self._log = log
        self._atomic = atomic
        self._weight_max = weight_max

    def read(self) -> Iterator[Sendable | Refusal]:
        """Refusals while the log is read, the queries in the order of their first lines, events of other queries."""
        log = self._log
        with spooling() as spool:
            for row in read_rows(self._lines, log.counts):
                if (refused := self._kept(spool, row)) is not None:
                    yield refused
            log.queries = spool.count_queries()
            self.ending.fault = self._lines.fault
            if log.counts.lines and not self.ending.understood:
                self.ending.fault = self.ending.fault or _NO_ROWS
            with closing(spool.queries()) as queries:
                for query_id in queries:
                    yield from self._query(spool, query_id)
            with closing(spool.stray_events()) as strays:
                for event in strays:
                    yield from self._alone(event, stray=True)

    def _kept(self, spool: Spool, row: Row | RefusedRow) -> Refusal | None:
        """Spool the row; return why not, if it cannot be used."""
        log = self._log
        if isinstance(row, Row):
            try:
                spool.add(row)
            except RowRefused as refused:
                row = row.refused(refused.reason)
            else:
                self.ending.understood += 1
                log.query_rows += row.kind is Kind.QUERY
                log.event_rows += row.kind is Kind.EVENT
                return None
        log.refused_rows += 1
        if row.query_id is not None:
            spool.note_refused_row(row.query_id)
        return Refusal((SourceRow(row.line, row.text),), "INVALID_ROW", row.reason)

    # --- one query --------------------------------------------------------------------------------------------------

    def _query(self, spool: Spool, query_id: str) -> Iterator[Sendable | Refusal]:
        rows = _first_rows(spool, query_id)
        try:
            if self._atomic:
                _check_whole(spool, query_id)
            mapped = spool.session(query_id)
            weight = checked_weight("session", mapped.session, self._weight_max)
            if self._atomic:
                _check_fits(spool, query_id, weight, self._weight_max)
        except InvalidField as error:
            self._log.refused_queries += 1
            yield Refusal(rows, InvalidField.reason, error.message, "query")
            yield from self._orphans(spool, query_id)
            return
        if mapped.rows_left_out:
            self._log.rows_left_out.add(rows[0].line, mapped.rows_left_out)
        yield from self._whole(mapped.session, weight, rows, spool)

    def _whole(
        self, session: Session, weight: int, rows: tuple[SourceRow, ...], spool: Spool
    ) -> Iterator[Sendable | Refusal]:
        """The session and its events, in as many items as that takes."""
        first: Session | None = session
        piece: list[SpooledEvent] = []
        with closing(spool.events_of(session.session_id)) as events:
            for event in events:
                size = weight_of(event.row.text.encode())
                if size > self._weight_max:
                    yield self._refused_event(event, "is too large for a message")
                    continue
                if weight and (len(piece) == PARTS_PER_ITEM or weight + size > self._weight_max):
                    yield _sendable(first, piece, weight, rows)
                    first, piece, weight = None, [], 0
                piece.append(event)
                weight += size
        yield _sendable(first, piece, weight, rows)

    def _orphans(self, spool: Spool, query_id: str) -> Iterator[Sendable | Refusal]:
        """The events of a query that was refused: stored all the same, unless they fall with it."""
        with closing(spool.events_of(query_id)) as events:
            for event in events:
                if self._atomic:
                    yield self._refused_event(event, "its query was refused, and falls with its events (--atomic)")
                else:
                    yield from self._alone(event, orphaned=True)

    def _alone(
        self, event: SpooledEvent, *, stray: bool = False, orphaned: bool = False
    ) -> Iterator[Sendable | Refusal]:
        weight = weight_of(event.row.text.encode())
        if weight > self._weight_max:
            yield self._refused_event(event, "is too large for a message", stray=stray)
            return
        item = ImportItem(None, [event.event])
        yield Sendable(item, weight, (event.row,), event_rows=(event.row,), stray=stray, orphaned=orphaned)

    def _refused_event(self, event: SpooledEvent, message: str, *, stray: bool = False) -> Refusal:
        self._log.refused_strays += stray
        self._log.refused_events += not stray
        return Refusal((event.row,), InvalidField.reason, message, "event")


def _sendable(
    session: Session | None, events: list[SpooledEvent], weight: int, rows: tuple[SourceRow, ...]
) -> Sendable:
    item = ImportItem(session, [event.event for event in events])
    return Sendable(item, weight, rows, event_rows=tuple(event.row for event in events))


def _first_rows(spool: Spool, query_id: str) -> tuple[SourceRow, ...]:
    """The query's own rows, or as many as there is room for."""
    found: list[SourceRow] = []
    size = 0
    with closing(spool.rows_of(query_id)) as rows:
        for row in rows:
            size += len(row.text.encode())
            if found and size > _ROWS_OF_QUERY_BYTES_MAX:
                break
            found.append(row)
    return tuple(found)


def _check_whole(spool: Spool, query_id: str) -> None:
    """Raise InvalidField if a row of this query was refused."""
    if spool.has_refused_row(query_id):
        raise InvalidField.at("query_id", "a row of this query was refused, and all of them fall with it (--atomic)")


def _check_fits(spool: Spool, query_id: str, weight: int, weight_max: int) -> None:
    """Raise InvalidField if the session has no room for all its events in one item."""
    with closing(spool.events_of(query_id)) as events:
        for count, event in enumerate(events, start=1):
            weight += weight_of(event.row.text.encode())
            if count > PARTS_PER_ITEM or weight > weight_max:
                raise too_large_for_one(weight_max)
