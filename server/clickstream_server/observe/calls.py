"""One line in the log for each call that failed or was slow; for the others, too, at level debug."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

from clickstream.errors import InternalError, ShuttingDown, StorageUnavailable
from clickstream_server.call_record import CallRecord

_log = logging.getLogger("clickstream_server.calls")
_OURS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes of calls whose callers did nothing wrong, or not they alone."""
_OF_THE_DATABASE = frozenset({StorageUnavailable.reason, InternalError.reason})
LINES_PER_S_MAX = 20
"""When everything fails, logging all of it would be one load more."""


class CallLog:
    """Writes the lines, and leaves out what is too much; how many that were stands in the next line."""

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._second = 0.0
        self._lines = 0
        self._left_out = 0

    def ended(self, method: str, code: str, duration_s: float, record: CallRecord, *, streams: bool) -> None:
        """A call has come to its end."""
        left = streams and record.gone  # clients leave long streams when they like, or at their deadline
        slow = not streams and duration_s >= self._slow_s
        expected = left or record.reason == ShuttingDown.reason
        if slow or (code in _OURS and not expected):
            level = logging.WARNING
        else:
            level = logging.DEBUG if code == "OK" else logging.INFO
        if not _log.isEnabledFor(level) or not self._has_room():
            return
        fields: dict[str, Any] = {
            "method": method.removeprefix("/"),
            "code": code,
            "reason": record.reason,
            "duration_s": round(duration_s, 6),
            "caller": record.caller,
        }
        if slow:
            fields |= record.spent_s()
        if record.reason in _OF_THE_DATABASE and record.cause:
            fields["cause"] = record.cause
        if self._left_out:
            fields["left_out"] = self._left_out
            self._left_out = 0
        text = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
        _log.log(level, "%s", text, extra={"fields": fields})

    def _has_room(self) -> bool:
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._lines = now, 0
        if self._lines >= LINES_PER_S_MAX:
            self._left_out += 1
            return False
        self._lines += 1
        return True
