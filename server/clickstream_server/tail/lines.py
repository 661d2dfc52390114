"""A session as a line: for people, or as JSON."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from typing import Any

from rich.cells import cell_len, set_cell_size

from clickstream.export import ExportedSession, totals_of
from clickstream.models import SessionWithEvents
from clickstream_server.bulk import jsonl
from clickstream_server.bulk.report import shown

EVENTS_COUNTED_MAX = 100
"""A session with more events is shown with a plus behind its clicks: all of its events may not fit into a message."""
_ID_WIDTH_MAX = 36
_QUERY_WIDTH_MIN = 10
_CLICK = "click"


class Lines(ABC):
    """Makes lines of sessions, in one form."""

    @abstractmethod
    def line(self, found: SessionWithEvents) -> bytes:
        """The line with its end."""


class JsonLines(Lines):
    """See `clickstream_server.bulk.jsonl`. No totals where a limit left out events: an export's are those of all."""

    def line(self, found: SessionWithEvents) -> bytes:
        row = jsonl.row_from_session(ExportedSession(found, totals_of(found.events)), with_place=True)
        if found.event_count > len(found.events):
            del row["totals"]
        return jsonl.line_from_row(row)


class TextLines(Lines):
    """Columns: an id gets as much room as the longest so far, a query what is left of the terminal's width."""

    def __init__(self) -> None:
        self._id_width = 0

    def line(self, found: SessionWithEvents) -> bytes:
        session_id = shown(found.session.session_id)
        self._id_width = max(self._id_width, min(cell_len(session_id), _ID_WIDTH_MAX))
        padding = " " * (self._id_width - cell_len(session_id))
        results = len(found.session.search_results)
        clicks = sum(event.event_type == _CLICK for event in found.events)
        more = "+" if found.event_count > len(found.events) else ""
        moment = found.registered_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = (
            f"{moment} {found.session_number:>6}  {session_id}{padding}  "
            f"{_counted(results, 'result'):<13}  {_counted(clicks, _CLICK, more):<11}  "
        )
        text += self._shortened(_query_text(found.session.search_query), cell_len(text))
        return f"{text.rstrip()}\n".encode()

    def _shortened(self, query: str, used: int) -> str:
        columns = shutil.get_terminal_size((0, 0)).columns  # 0: no terminal, so nothing is cut off
        width = max(columns - used, _QUERY_WIDTH_MIN)
        if not columns or cell_len(query) <= width:
            return query
        return f"{set_cell_size(query, width - 1)}…"


def _counted(count: int, what: str, more: str = "") -> str:
    return f"{count:,}{more} {what}{'' if count == 1 and not more else 's'}"


def _query_text(query: Any) -> str:
    text = query if isinstance(query, str) else "" if query is None else json.dumps(query, ensure_ascii=False)
    return shown(text)
