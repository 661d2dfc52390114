"""The rows of a source -> what can be sent, and what cannot, each with its line. In bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256

from clickstream.errors import InvalidField
from clickstream.models import Session, SessionEvent
from clickstream.transfer import ImportItem
from clickstream_server.bulk import jsonl
from clickstream_server.bulk.sources import LINE_BYTES_MAX, Lines
from clickstream_server.canonical import canonical_event, canonical_session
from clickstream_server.failures import StartFailure

PARTS_PER_ITEM = 5_000
"""A session with more events than this is sent in several items: a chunk may have 10,000 sessions and events."""

BYTES_PER_ITEM = 2 * 1024 * 1024
_PART_BYTES_MAX = 4 * 1024 * 1024
_ROW_KEPT_BYTES = 4096
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was not stored, and why. `reason` is a stable code, `row` the row as it stands in the file."""

    line: int
    reason: str
    message: str
    row: str


@dataclass(frozen=True, slots=True)
class Sendable:
    """An item, the lines that it comes from, and its size in bytes of text.

    `first_event`: the place, in its row, of the first event of the item. `event_lines`: of each event, where they stand
    in lines of their own. `text`: the row, where it is still needed.
    """

    item: ImportItem
    size: int
    line: int
    text: str | None = None
    first_event: int = 0
    event_lines: tuple[int, ...] = ()


@dataclass(slots=True)
class Ending:
    """What is known of a file at its end, or for `understood`, the rows that can be used, as soon as it is known.

    `fault`: why it cannot be said that all of it was there.
    """

    lines: int = 0
    understood: int = 0
    fault: str | None = None


class LineRefused(Exception):
    """A line cannot be used."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# --- our own form -----------------------------------------------------------------------------------------------------


class SessionRows:
    """The rows of a file in our own JSON Lines form. `partial`: it may lack its trailer."""

    def __init__(self, lines: Lines, *, partial: bool, atomic: bool) -> None:
        self.ending = Ending()
        self._lines = lines
        self._partial = partial
        self._atomic = atomic
        self._rows = 0
        self._exported = False
        self._digest = sha256()

    def read(self) -> Iterator[Sendable | Refusal]:
        """The rows, in order. A session that stood in an earlier line is refused."""
        with closing(_Seen()) as seen:
            while raw := self._lines.readline(LINE_BYTES_MAX + 1):
                self.ending.lines += 1
                line = self.ending.lines
                if jsonl.is_trailer(raw):
                    self._check_trailer(raw)
                    continue
                self._digest.update(raw)
                try:
                    text = self._text(raw, line).rstrip("\r\n")
                    if text.strip():
                        yield from self._items(line, text, seen)
                except LineRefused as refused:
                    self._rows += 1
                    yield Refusal(line, refused.reason, str(refused), _kept(raw))
            if self._lines.fault is not None:
                self.ending.fault = self._lines.fault
            elif self._exported and not self._partial:
                self.ending.fault = (
                    "its trailer is missing: the export was cut off, and sessions are missing (if it is a part of an "
                    "export, say --partial)"
                )

    def text(self, line: int) -> str:
        """The row of an item that does not carry it; all of these do."""
        raise LookupError(line)

    def close(self) -> None:
        """Nothing is kept beyond `read`."""

    def _text(self, raw: bytes, line: int) -> str:
        if len(raw) > LINE_BYTES_MAX:
            while raw and not raw.endswith(b"\n"):
                raw = self._lines.readline(LINE_BYTES_MAX)
                self._digest.update(raw)
            raise LineRefused("LINE_TOO_LONG", f"the line has more than {LINE_BYTES_MAX} bytes")
        if self._lines.fault is not None and not raw.endswith(b"\n"):
            raise LineRefused("TRUNCATED", self._lines.fault)
        try:
            return (raw.removeprefix(_BOM) if line == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise LineRefused("NOT_UTF8", f"not UTF-8 (byte {error.start + 1} of the line)") from None

    def _items(self, line: int, text: str, seen: _Seen) -> Iterator[Sendable]:
        try:
            read = jsonl.row_from_line(text)
            session = read.item.session
            assert isinstance(session, Session)
            items = list(items_of(Sendable(read.item, len(text), line, text), atomic=self._atomic))
        except InvalidField as error:
            broken = "Invalid JSON" in error.message
            raise LineRefused("BROKEN_LINE" if broken else InvalidField.reason, error.message) from None
        self._exported = self._exported or read.exported
        if (earlier := seen.before(session.session_id, line)) is not None:
            raise LineRefused("DUPLICATE_IN_FILE", f"session_id: this session stands in line {earlier} already")
        self._rows += 1
        yield from items

    def _check_trailer(self, raw: bytes) -> None:
        """Compare with what stood before it, and begin anew."""
        found, rows, self._digest, self._rows, self._exported = self._digest, self._rows, sha256(), 0, False
        try:
            trailer = jsonl.trailer_from_line(raw.decode(errors="replace"))
        except InvalidField as error:
            self.ending.fault = f"its trailer in line {self.ending.lines} cannot be read: {error.message}"
            return
        if trailer.sessions != rows:
            self.ending.fault = (
                f"it does not agree with its trailer in line {self.ending.lines}: {trailer.sessions:,} sessions were "
                f"exported, and {rows:,} are there"
            )
        elif trailer.sha256 != found.hexdigest():
            self.ending.fault = (
                f"it does not agree with its trailer in line {self.ending.lines}: the rows are not those that were "
                "exported (if they were changed on purpose, take the trailer out and say --partial)"
            )


class _Seen:
    """Which sessions stood in which line. On disk, in a file without a name, so that memory stays bounded."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; CREATE TABLE seen (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID; BEGIN;"
        )

    def before(self, session_id: str, line: int) -> int | None:
        """The line where it stood first; None, and noted, if this is the first."""
        try:
            inserted = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (session_id, line)).rowcount
            if inserted:
                return None
            found: tuple[int] = self._database.execute("SELECT line FROM seen WHERE id = ?", (session_id,)).fetchone()
            return found[0]
        except sqlite3.Error as error:
            raise StartFailure(f"no room for a temporary file (TMPDIR says where): {error}") from error

    def close(self) -> None:
        self._database.close()


def _kept(raw: bytes) -> str:
    text = (raw if len(raw) <= LINE_BYTES_MAX else raw[:_ROW_KEPT_BYTES]).decode(errors="replace")
    return text.rstrip("\r\n")


# --- large sessions ---------------------------------------------------------------------------------------------------


def items_of(whole: Sendable, *, atomic: bool) -> Iterator[Sendable]:
    """The item, or several that a message has room for: a session and some of its events, then events alone.

    Raises InvalidField where that cannot be.
    """
    events = whole.item.events
    if len(events) <= PARTS_PER_ITEM and whole.size <= BYTES_PER_ITEM:
        yield whole
        return
    session = whole.item.session
    pieces = list(_pieces(session if isinstance(session, Session) else None, events))
    if atomic and len(pieces) > 1:
        raise InvalidField.at(
            "events",
            f"a session with {PARTS_PER_ITEM:,} events or {BYTES_PER_ITEM >> 20} MiB at most can be stored as one "
            "(--atomic)",
        )
    at = 0
    for number, (piece, size) in enumerate(pieces):
        item = ImportItem(session if number == 0 else None, piece)
        lines = whole.event_lines[at : at + len(piece)]
        yield Sendable(item, size, whole.line, whole.text, at, lines)
        at += len(piece)


def _pieces(session: Session | None, events: Iterable[object]) -> Iterator[tuple[list[SessionEvent], int]]:
    piece: list[SessionEvent] = []
    total = 0 if session is None else _checked("session", len(canonical_session(session)))
    for place, event in enumerate(events):
        assert isinstance(event, SessionEvent)
        if session is not None and not event.session_id:
            event = event.model_copy(update={"session_id": session.session_id})  # noqa: PLW2901  # it may be sent alone
        size = _checked(f"events[{place}]", len(canonical_event(event)))
        if piece and (len(piece) == PARTS_PER_ITEM or total + size > BYTES_PER_ITEM):
            yield piece, total
            piece, total = [], 0
        piece.append(event)
        total += size
    yield piece, total


def _checked(path: str, size: int) -> int:
    if size > _PART_BYTES_MAX:
        raise InvalidField.at(path, f"has {size} bytes, too many for a message")
    return size
