"""What the parts that stand around a call know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from clickstream_server.call_record import CallRecord

Context = grpc.aio.ServicerContext[Any, Any]
HEALTH = "/grpc.health.v1.Health/"
HEALTH_BYTES_MAX = 1024
"""A request to health may have so many: it is a name, and may come from a stranger."""
Handler = Any
"""A `grpc.RpcMethodHandler`: a named tuple at run time, which its types do not say."""


@dataclass(slots=True)
class Call:
    """One call: `method` is its full name, as in `/clickstream.v1.ClickstreamService/GetBatch`."""

    method: str
    context: Context
    record: CallRecord
    streams: bool
