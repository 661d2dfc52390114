"""How much the server takes on at once."""

from __future__ import annotations

from dataclasses import dataclass

from clickstream.values import MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be in flight at once.

    `request_bytes_max` is of calls that answer once, all together, and again of readers and exports; `queue_s_max` is
    how long a queue of calls may stand. Of `message_bytes_max` is one message at most.
    """

    calls_max: int = 1_000
    streams_max: int = 1_000
    request_bytes_max: int = 64 * 1024 * 1024
    message_bytes_max: int = MESSAGE_BYTES_MAX
    queue_s_max: float = 1.0
