"""How much the server takes on at once."""

from __future__ import annotations

from dataclasses import dataclass

from clickstream.values import MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be in flight at once.

    `request_bytes_max`: all requests of unary calls together, and as much again those of readers and exports.
    `message_bytes_max`: one message. `queue_s_max`: how long a queue of calls may stand.
    """

    calls_max: int = 1_000
    streams_max: int = 1_000
    request_bytes_max: int = 64 * 1024 * 1024
    message_bytes_max: int = MESSAGE_BYTES_MAX
    queue_s_max: float = 1.0
