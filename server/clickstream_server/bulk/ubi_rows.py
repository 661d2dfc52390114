"""The rows of a UBI log -> what can be sent, through the spool and the mapping that `clickstream replay` uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from clickstream.errors import InvalidField
from clickstream.transfer import ImportItem
from clickstream_server.bulk.rows import Ending, Refusal, Sendable, items_of
from clickstream_server.bulk.sources import Lines
from clickstream_server.replay.account import Account, Notes
from clickstream_server.replay.spool import EventGroup, Spool, spooled

_LINES_KEPT = 8


class _Remembering:
    """Lines of which the latest are remembered, so that a refused one can be shown as it is."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._number = 0
        self._whole = True
        self._latest: dict[int, bytes] = {}

    def readline(self, size: int = -1, /) -> bytes:
        raw = self._lines.readline(size)
        if raw and self._whole:
            self._number += 1
            if raw.strip():
                self._latest[self._number] = raw
            while len(self._latest) > _LINES_KEPT:
                del self._latest[next(iter(self._latest))]
        self._whole = raw.endswith(b"\n")
        return raw

    def text(self, line: int) -> str:
        return self._latest.get(line, b"").decode(errors="replace").rstrip("\r\n")


class _Refusing(Notes):
    """Notes of which each is told as it comes."""

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        super().__init__()
        self._tell = tell

    def add(self, what: str, reason: str, line: int) -> None:
        super().add(what, reason, line)
        self._tell(line, reason)


class UbiRows:
    """The rows of a UBI log. All of it is read, and spooled to disk, before the first can be sent."""

    def __init__(self, lines: Lines, *, atomic: bool, refuse: Callable[[Refusal], None]) -> None:
        self.ending = Ending()
        self._lines = lines
        self._atomic = atomic
        self._refuse = refuse
        self._spool: Spool | None = None
        self._stack = ExitStack()

    def read(self) -> Iterator[Sendable | Refusal]:
        """The queries in the order of their first lines, each with its events, then the events of other queries."""
        remembering = _Remembering(self._lines)
        account = Account()
        account.notes = _Refusing(
            lambda line, reason: self._refuse(Refusal(line, "INVALID_ROW", reason, remembering.text(line)))
        )
        self._spool = self._stack.enter_context(spooled(remembering, account, lambda _: None))
        self.ending.lines, self.ending.fault = account.lines, self._lines.fault
        self.ending.understood = account.query_rows + account.event_rows
        yield from self._rows(self._spool)

    def close(self) -> None:
        """Drop the spool."""
        self._stack.close()

    def text(self, line: int) -> str:
        """The row that stands in this line."""
        return self._spool.row(line) if self._spool is not None else ""

    def _rows(self, spool: Spool) -> Iterator[Sendable | Refusal]:
        with closing(spool.queries()) as queries:
            for line, query_id in queries:
                text = spool.row(line)
                try:
                    session = spool.session(query_id).session
                except InvalidField as error:
                    yield Refusal(line, InvalidField.reason, error.message, text)
                    spool.mark_unregistered(query_id)
                    continue
                events = list(spool.events_of(query_id))
                size = len(text) + sum(event.size for event in events)
                lines = tuple(event.line for event in events)
                item = ImportItem(session, [event.event for event in events])
                try:
                    yield from items_of(Sendable(item, size, line, event_lines=lines), atomic=self._atomic)
                except InvalidField as error:
                    yield Refusal(line, InvalidField.reason, error.message, text)
                    spool.mark_unregistered(query_id)
        for group in (EventGroup.UNREGISTERED, EventGroup.UNKNOWN):
            with closing(spool.events(group)) as loose:
                for event in loose:
                    alone = ImportItem(None, [event.event])
                    yield Sendable(alone, event.size, event.line, event_lines=(event.line,))
