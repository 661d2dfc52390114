"""The lines of a log -> its rows, one at a time: plain NDJSON and the bulk form, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from clickstream_server.bulk.rows import kept_text
from clickstream_server.bulk.ubi.mapping import RowRefused, object_from_json, text_of

LINE_BYTES_MAX = 8 * 1024 * 1024
"""As large as a message: a line is one query or one event, not a session with all its events as in our own form."""

ACTIONS = frozenset({"index", "create", "update", "delete"})


class ByteLines(Protocol):
    """A stream of bytes that is read by lines: an open file, standard input."""

    def readline(self, size: int = -1, /) -> bytes: ...


class Kind(Enum):
    """What a row is about."""

    QUERY = "query"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Row:
    """A line that holds a query or an event: its number from 1, its text and the object in it."""

    line: int
    kind: Kind
    text: str
    fields: dict[str, Any]

    def refused(self, reason: str) -> RefusedRow:
        """The same row, if it cannot be used."""
        return RefusedRow(self.line, self.text, reason, _named_query(self.fields))


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A line that cannot be used, why, and the query that it names, if it names one."""

    line: int
    text: str
    reason: str
    query_id: str | None = None


@dataclass(slots=True)
class LineCounts:
    """How many lines were read, and how many of them are no rows: blank ones, and actions that have a document."""

    lines: int = 0
    blank: int = 0
    actions: int = 0


@dataclass(frozen=True, slots=True)
class _Action:
    """An action line of the bulk form."""

    line: int
    text: str
    name: str
    index: str

    @property
    def adds(self) -> bool:
        return self.name in {"index", "create"}


def read_rows(stream: ByteLines, counts: LineCounts) -> Iterator[Row | RefusedRow]:
    """The rows of a log, in order. Each line is counted."""
    action: _Action | None = None  # whose document comes next
    for line, raw, whole in _numbered_lines(stream):
        counts.lines += 1
        if not raw.strip() and whole:
            counts.blank += 1
            continue
        before, action = action, None
        fields: dict[str, Any] = {}
        try:
            text = _decoded(raw, whole=whole)
            fields = object_from_json(text)
            found = _action_of(line, text, fields)
            if found is None:
                yield Row(line, _kind_of(fields, before), text, fields)
                continue
            yield from _dangling(before, counts)
            action = None if found.name == "delete" else found  # only a delete has no document
            if not found.adds:
                raise RowRefused(f"an action that is not one of a log: {found.name}")
            counts.actions += 1
        except RowRefused as refused:
            yield RefusedRow(line, kept_text(raw, whole=whole), refused.reason, _named_query(fields))
    yield from _dangling(action, counts)


def _dangling(action: _Action | None, counts: LineCounts) -> Iterator[RefusedRow]:
    """An action whose document did not come is refused; until now it was counted as one that has it."""
    if action is not None and action.adds:
        counts.actions -= 1
        yield RefusedRow(action.line, action.text, "an action line without its document")


def _numbered_lines(stream: ByteLines) -> Iterator[tuple[int, bytes, bool]]:
    """Each line with its number, and whether it is all there: of one that is too long only the beginning is kept."""
    line = 0
    while raw := stream.readline(LINE_BYTES_MAX + 1):
        line += 1
        piece = raw
        while len(raw) > LINE_BYTES_MAX and piece and not piece.endswith(b"\n"):
            piece = stream.readline(LINE_BYTES_MAX)
        yield line, raw, len(raw) <= LINE_BYTES_MAX


def _decoded(raw: bytes, *, whole: bool) -> str:
    if not whole:
        raise RowRefused(f"longer than {LINE_BYTES_MAX} bytes")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise RowRefused("not UTF-8") from None


def _named_query(fields: dict[str, Any]) -> str | None:
    """The query that a row names, if there can be one of this id: there is none where it is not Unicode."""
    query_id = text_of(fields.get("query_id"))
    try:
        (query_id or "").encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape; it can be kept nowhere
        return None
    return query_id


def _action_of(line: int, text: str, fields: dict[str, Any]) -> _Action | None:
    """The bulk action that this object is, if it is one: a single key that names it, with an object below."""
    if len(fields) != 1:
        return None
    ((name, target),) = fields.items()
    if name not in ACTIONS or not isinstance(target, dict):
        return None
    index = target.get("_index")
    return _Action(line, text, name, index if isinstance(index, str) else "")


def _kind_of(fields: dict[str, Any], action: _Action | None) -> Kind:
    """What the row is about: its index says so where its name does, otherwise its fields."""
    if action is not None and not action.adds:
        raise RowRefused(f"the document of an action that is not one of a log: {action.name}")
    index = action.index if action is not None else ""
    if ("queries" in index) != ("events" in index):
        return Kind.QUERY if "queries" in index else Kind.EVENT
    if "action_name" in fields:
        return Kind.EVENT
    if fields.keys() & {"user_query", "query_response_id", "query_response_hit_ids", "query"}:
        return Kind.QUERY
    raise RowRefused("neither a query (user_query) nor an event (action_name)")
