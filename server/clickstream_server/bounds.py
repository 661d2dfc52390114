"""How much the server takes on at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be in flight at once.

    `request_bytes_max` is of calls that answer once, all together, and again of readers and exports; `queue_s_max` is
    how long a queue of calls may stand.
    """

    calls_max: int = 1_000
    streams_max: int = 1_000
    request_bytes_max: int = 64 * 1024 * 1024
    queue_s_max: float = 1.0
