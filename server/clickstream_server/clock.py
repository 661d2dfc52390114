"""The server's clock."""

from __future__ import annotations

from time import time_ns


def now_micros() -> int:
    """Microseconds since 1970."""
    return time_ns() // 1000
