"""The lines of a log -> its rows, one at a time: plain NDJSON and the bulk form, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from clickstream_server.replay.account import Account
from clickstream_server.replay.ubi import RowRefused, object_from_json

LINE_BYTES_MAX = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_ACTIONS = frozenset({"index", "create", "update", "delete"})


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


@dataclass(frozen=True, slots=True)
class _Action:
    """An action line of the bulk form."""

    line: int
    name: str
    index: str

    @property
    def adds(self) -> bool:
        return self.name in {"index", "create"}


def read_rows(stream: ByteLines, account: Account, advance: Callable[[int], None]) -> Iterator[Row]:
    """The rows of a log. Every line is counted in the account; `advance` is told how many bytes were read.

    Raises OSError.
    """
    action: _Action | None = None  # whose document comes next
    for line, raw in _numbered_lines(stream, advance):
        account.lines += 1
        if raw is not None and not raw.strip():
            account.blank_lines += 1
            continue
        before, action = action, None
        try:
            text = _decoded(raw)
            fields = object_from_json(text)
            found = _action_of(line, fields)
            if found is None:
                yield Row(line, _kind_of(fields, before), text, fields)
                continue
            _note_dangling(before, account)
            action = None if found.name == "delete" else found  # only a delete has no document
            if not found.adds:
                raise RowRefused(f"an action that is not one of a log: {found.name}")
            account.action_lines += 1
        except RowRefused as refused:
            account.notes.add("row", refused.reason, line)
    _note_dangling(action, account)


def _note_dangling(action: _Action | None, account: Account) -> None:
    """Refuse an action whose document did not come; until now it was counted as one that has it."""
    if action is not None and action.adds:
        account.action_lines -= 1
        account.notes.add("row", "an action line without its document", action.line)


def _numbered_lines(stream: ByteLines, advance: Callable[[int], None]) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one that is too long, of which only a piece is held at a time."""
    line = 0
    while raw := stream.readline(LINE_BYTES_MAX + 1):
        line += 1
        size = len(raw)
        if size > LINE_BYTES_MAX:
            piece = raw
            while piece and not piece.endswith(b"\n"):
                piece = stream.readline(LINE_BYTES_MAX)
                size += len(piece)
            yield line, None
        else:
            yield line, raw.removeprefix(_BOM) if line == 1 else raw
        advance(size)


def _decoded(raw: bytes | None) -> str:
    if raw is None:
        raise RowRefused(f"longer than {LINE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise RowRefused("not UTF-8") from None


def _action_of(line: int, fields: dict[str, Any]) -> _Action | None:
    """The bulk action that this object is, if it is one: a single key that names it, with an object below."""
    if len(fields) != 1:
        return None
    ((name, target),) = fields.items()
    if name not in _ACTIONS or not isinstance(target, dict):
        return None
    index = target.get("_index")
    return _Action(line, name, index if isinstance(index, str) else "")


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
