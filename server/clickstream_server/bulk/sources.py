"""Files and standard input as lines of bytes: gzip and zstd undone, the format recognised by the first rows."""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from clickstream_server.bulk.rows import has_too_many_values
from clickstream_server.bulk.ubi.lines import ACTIONS
from clickstream_server.failures import StartFailure
from clickstream_server.reach import program

STDIN = "-"
LINE_BYTES_MAX = 32 * 1024 * 1024
"""A session with its events has 8 MiB as a message at most; as JSON it is some times as large."""

_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_BYTES_MAX = 2**31
"""What `zstd --long=31` needs. The library's own limit is 128 MiB, and what is past it would be told as damaged."""
_OTHER_FORMS = {
    b"PAR1": "is a Parquet file, and import reads lines of JSON: export those",
    b"\xff\xfe": "is text in UTF-16, and import reads UTF-8: iconv -f UTF-16 -t UTF-8 makes it so",
    b"\xfe\xff": "is text in UTF-16, and import reads UTF-8: iconv -f UTF-16 -t UTF-8 makes it so",
    b"BZh": "is compressed with bzip2, and import reads gzip and zstd: bzip2 -dc FILE | {again}",
    b"\xfd7zX": "is compressed with xz, and import reads gzip and zstd: xz -dc FILE | {again}",
    b"PK\x03\x04": "is a zip archive, and import reads gzip and zstd: unzip -p FILE | {again}",
}
"""What files that cannot be read begin with."""
_OTHER_JSON = {
    re.compile(rb"\s*\[\s*([{\]]|$)"): "is an array, and import reads an object a line: jq -c '.[]' FILE | {again}",
    re.compile(rb"\s*\{\s*$"): "has objects of several lines, and import reads one a line: jq -c . FILE | {again}",
}
"""How the first row of JSON looks that cannot be read by lines."""
_PIECE_BYTES = 64 * 1024
_ROWS_LOOKED_AT = 50
_UBI_FIELDS = frozenset({"query_id", "action_name", "user_query", "query_response_id"})


class Format(Enum):
    """What the rows are."""

    SESSIONS = "sessions"
    UBI = "UBI"


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be imported: its name for people, its lines, its size in bytes as it is stored, if that is known."""

    name: str
    lines: Lines
    size: int | None
    format: Format
    packed: _Counted

    @property
    def bytes_read(self) -> int:
        """How much of it was read, as it is stored."""
        return self.packed.count


@dataclass(frozen=True, slots=True)
class Generated:
    """A file that is not on disk, with its name for people."""

    name: str
    content: bytes


@contextmanager
def opened(file: str | Generated, advance: Callable[[int], None], known: Format | None = None) -> Iterator[Source]:
    """Open a file or standard input; `advance` is told how many bytes were read of it so far. Raises StartFailure.

    `known`: what the rows are; None to recognise it.
    """
    name = file.name if isinstance(file, Generated) else "standard input" if file == STDIN else file
    try:
        raw = _raw(file)
    except OSError as error:
        raise _unreadable(name, error) from error
    with raw:
        size = len(file.content) if isinstance(file, Generated) else os.fstat(raw.fileno()).st_size
        packed = _Counted(name, raw, advance)
        lines = _unpacked(name, packed)
        yield Source(name, lines, size or None, _format_of(name, lines, known), packed)


def _raw(file: str | Generated) -> Any:
    if isinstance(file, Generated):
        return io.BytesIO(file.content)
    if file == STDIN:  # by its number, without Python's own buffer in between, and left open
        return open(0, "rb", buffering=0, closefd=False)
    return Path(file).open("rb", buffering=0)


def _unreadable(name: str, error: OSError) -> StartFailure:
    return StartFailure(f"cannot read {name}: {error.strerror or error}")


class _Counted:
    """The bytes as they are stored. Raises StartFailure where they cannot be read."""

    def __init__(self, name: str, raw: Any, advance: Callable[[int], None]) -> None:
        self.count = 0
        self._name = name
        self._raw = raw
        self._advance = advance
        self._head = b""

    def peek(self, size: int) -> bytes:
        """The first bytes, which are read again later; fewer only at the end."""
        while len(self._head) < size and (more := self._read(size)):
            self._head += more
        return self._head[:size]

    def read(self) -> bytes:
        """Some bytes; none at the end."""
        head, self._head = self._head, b""
        return head or self._read(_PIECE_BYTES)

    def _read(self, size: int) -> bytes:
        try:
            found: bytes = self._raw.read(size) or b""
        except OSError as error:
            raise _unreadable(self._name, error) from error
        self.count += len(found)
        self._advance(self.count)
        return found


class _Stream(io.RawIOBase):
    """A raw stream over a function that returns some bytes, none at the end; without a byte order mark at its start."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        super().__init__()
        self._read = read
        start = b""
        while len(start) < len(_BOM) and (more := read()):
            start += more
        self._left = memoryview(start.removeprefix(_BOM))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._left:
            self._left = memoryview(self._read())
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _unpacked(name: str, packed: _Counted) -> Lines:
    """The lines without their compression, which the first bytes tell."""
    start = packed.peek(4)
    _check_start(name, start)
    unpacker = None
    if start.startswith(_GZIP):
        unpacker = _Unpacker(packed.read, lambda: zlib.decompressobj(wbits=31), zlib.error)
    elif start == _ZSTD:
        try:
            import zstandard
        except ImportError as error:
            raise StartFailure(f"{name} is compressed with zstd: pip install zstandard") from error
        unpacker = _Unpacker(
            packed.read,
            lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX).decompressobj(),
            zstandard.ZstdError,
        )
    stream = _Stream(packed.read if unpacker is None else unpacker.read)
    return Lines(io.BufferedReader(stream, buffer_size=1024 * 1024), unpacker)


def _check_start(name: str, start: bytes) -> None:
    """Raise StartFailure for what is no text in UTF-8."""
    for begin, problem in _OTHER_FORMS.items():
        if start.startswith(begin):
            raise _of_another_form(name, problem)


def _check_form(name: str, first: bytes) -> None:
    """Raise StartFailure where the first row says that it is not one a line: told once, and not of each line."""
    _check_start(name, first)
    for form, problem in _OTHER_JSON.items():
        if form.match(first):
            raise _of_another_form(name, problem)


def _of_another_form(name: str, problem: str) -> StartFailure:
    return StartFailure(f"{name} {problem.format(again=f'{program()} import -')}")


class _Unpacker:
    """Undoes gzip or zstd, over as many members or frames as there are. Both have the same interface for this.

    The stream readers of both libraries are not used: that of zstandard does not tell a cut-off file from a whole one.
    """

    def __init__(self, read: Callable[[], bytes], start: Callable[[], Any], error: type[Exception]) -> None:
        self.fault: str | None = None
        self._packed = read
        self._start = start
        self._error = error
        self._member: Any = None
        self._rest = b""

    def read(self) -> bytes:
        """Some bytes; none at the end, and where it cannot go on: `fault` then says why."""
        while self.fault is None:
            data = self._rest or self._packed()
            self._rest = b""
            if self._member is None:
                if not data:
                    return b""
                data = data.lstrip(b"\0")  # padding, as gzip allows it; another member may follow
                if not data:
                    continue
                self._member = self._start()
            elif not data:
                self.fault = "the compressed data ends too early: the file is cut off"
                break
            try:
                found: bytes = self._member.decompress(data)
            except self._error:
                self.fault = "the compressed data is damaged from here on"
                break
            if self._member.eof:
                self._rest, self._member = self._member.unused_data, None
            if found:
                return found
        return b""


class Lines:
    """Lines of bytes, of which the first can be looked at before they are read."""

    def __init__(self, stream: io.BufferedReader, unpacker: _Unpacker | None) -> None:
        self._stream = stream
        self._unpacker = unpacker
        self._head = io.BytesIO()

    @property
    def fault(self) -> str | None:
        """Why the lines ended too early, if they did; the last may be a part of a line then."""
        return None if self._unpacker is None else self._unpacker.fault

    def look_at(self, rows: int) -> Iterator[bytes]:
        """The first lines that are not blank, of bounded size together; they are read again later."""
        seen = bytearray()
        for _ in range(rows):
            if len(seen) >= LINE_BYTES_MAX:
                return
            line = self._stream.readline(LINE_BYTES_MAX)
            seen += line
            self._head = io.BytesIO(bytes(seen))
            if not line:
                return
            if line.strip():
                yield line

    def readline(self, size: int = -1, /) -> bytes:
        """As of a file."""
        line = self._head.readline(size)
        if line.endswith(b"\n") or 0 < size <= len(line):
            return line
        return line + self._stream.readline(size - len(line) if size > 0 else size)


def _format_of(name: str, lines: Lines, known: Format | None) -> Format:
    """What the rows are, which may be known. Raises StartFailure for what cannot be read by lines."""
    for place, line in enumerate(lines.look_at(_ROWS_LOOKED_AT if known is None else 1)):
        if place == 0:
            _check_form(name, line)
        if known is not None:
            return known
        if has_too_many_values(line):  # refused later; to parse it takes too much memory
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict):
            continue
        if isinstance(row.get("session"), dict) or "trailer" in row:
            return Format.SESSIONS
        if row.keys() & _UBI_FIELDS or (len(row) == 1 and row.keys() <= ACTIONS):
            return Format.UBI
        if row.keys() & {"session", "session_id"}:  # after the others: the rows of a log may have these, too
            return Format.SESSIONS
    return known or Format.SESSIONS
