"""The rows of a file in our own JSON Lines form. In bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

from clickstream.errors import InvalidField
from clickstream.models import Session
from clickstream_server.bulk import jsonl
from clickstream_server.bulk.rows import (
    VALUES_MAX,
    WEIGHT_MAX,
    Ending,
    Refusal,
    Sendable,
    SourceRow,
    has_too_many_values,
    items_of,
    kept_text,
    weight_of,
)
from clickstream_server.bulk.sources import LINE_BYTES_MAX, Lines
from clickstream_server.failures import StartFailure


class _LineRefused(Exception):
    """A line cannot be used."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SessionRows:
    """The rows of a file in our own JSON Lines form. `partial`: it may lack its trailer."""

    def __init__(self, lines: Lines, *, partial: bool, atomic: bool, weight_max: int = WEIGHT_MAX) -> None:
        self.ending = Ending()
        self._lines = lines
        self._partial = partial
        self._atomic = atomic
        self._weight_max = weight_max
        self._line = 0
        self._rows = 0
        self._exported = False
        self._digest = sha256()

    def read(self) -> Iterator[Sendable | Refusal]:
        """The rows, in order. A session that stood in an earlier line is refused."""
        with closing(_Seen()) as seen:
            while raw := self._lines.readline(LINE_BYTES_MAX + 1):
                self._line += 1
                line = self._line
                if jsonl.is_trailer(raw):
                    self._check_trailer(raw)
                    continue
                self._digest.update(raw)
                try:
                    text = self._text(raw).rstrip("\r\n")
                    if text.strip():
                        yield from self._items(SourceRow(line, text), seen)
                except _LineRefused as refused:
                    self._rows += 1
                    row = SourceRow(line, kept_text(raw, whole=len(raw) <= LINE_BYTES_MAX))
                    yield Refusal((row,), refused.reason, str(refused))
            if self._lines.fault is not None:
                self.ending.fault = self._lines.fault
            elif self._exported and not self._partial:
                self.ending.fault = (
                    "its trailer is missing: the export was cut off, and sessions are missing (if it is a part of an "
                    "export, say --partial)"
                )

    def _text(self, raw: bytes) -> str:
        if len(raw) > LINE_BYTES_MAX:
            while raw and not raw.endswith(b"\n"):
                raw = self._lines.readline(LINE_BYTES_MAX)
                self._digest.update(raw)
            raise _LineRefused("LINE_TOO_LONG", f"the line has more than {LINE_BYTES_MAX} bytes")
        if has_too_many_values(raw):
            raise _LineRefused("TOO_MANY_VALUES", f"the line has more than {VALUES_MAX} values")
        if self._lines.fault is not None and not raw.endswith(b"\n"):
            raise _LineRefused("TRUNCATED", self._lines.fault)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise _LineRefused("NOT_UTF8", f"not UTF-8 (byte {error.start + 1} of the line)") from None

    def _items(self, row: SourceRow, seen: _Seen) -> Iterator[Sendable]:
        try:
            read = jsonl.row_from_line(row.text)
            session = read.item.session
            assert isinstance(session, Session)
            whole = Sendable(read.item, weight_of(row.text.encode()), (row,))
            items = list(items_of(whole, atomic=self._atomic, weight_max=self._weight_max))
        except jsonl.BrokenLine as error:
            raise _LineRefused("BROKEN_LINE", str(error)) from None
        except InvalidField as error:
            raise _LineRefused(InvalidField.reason, error.message) from None
        self._exported = self._exported or read.exported
        if (earlier := seen.before(session.session_id, row.line)) is not None:
            raise _LineRefused("DUPLICATE_IN_FILE", f"session_id: this session stands in line {earlier} already")
        self._rows += 1
        yield from items

    def _check_trailer(self, raw: bytes) -> None:
        """Compare with what stood before it, and begin anew."""
        found, rows, self._digest, self._rows, self._exported = self._digest, self._rows, sha256(), 0, False
        try:
            trailer = jsonl.trailer_from_line(raw.decode(errors="replace"))
        except InvalidField as error:
            self.ending.fault = f"its trailer in line {self._line} cannot be read: {error.message}"
            return
        if trailer.sessions != rows:
            self.ending.fault = (
                f"it does not agree with its trailer in line {self._line}: {trailer.sessions:,} sessions were "
                f"exported, and {rows:,} are there"
            )
        elif trailer.sha256 != found.hexdigest():
            self.ending.fault = (
                f"it does not agree with its trailer in line {self._line}: the rows are not those that were "
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
