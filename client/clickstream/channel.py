"""What the client asks of gRPC: which calls it makes again by itself, how it connects, how large a message may be."""

from __future__ import annotations

import json
from typing import Any

from clickstream.values import INT32_MAX

SERVICE = "clickstream.v1.ClickstreamService"
TRANSFER_SERVICE = "clickstream.v1.TransferService"


_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],  # the second: the call came just as the server stopped
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE}, {"service": TRANSFER_SERVICE, "method": "ExportSessions"}],
            "retryPolicy": _RETRY_POLICY,
        },
        # With an expected status, an update that was done unseen would be told as a mismatch.
        {"name": [{"service": SERVICE, "method": "UpdateBatchStatus"}]},
    ],
}
_CHANNEL_OPTIONS = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.use_local_subchannel_pool", 1),  # each client its own connection, so that several spread over workers
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A server that comes back is found within seconds, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def _message_options(message_bytes_max: int) -> list[tuple[str, int]]:
    """Twice as much as may be sent: what is a little larger is refused by the service, with a reason."""
    most = min(2 * message_bytes_max, INT32_MAX)
    return [
        ("grpc.per_rpc_retry_buffer_size", most),  # gRPC tries nothing larger than this again
        ("grpc.max_send_message_length", most),
        ("grpc.max_receive_message_length", most),
    ]


def channel_options(message_bytes_max: int) -> list[tuple[str, Any]]:
    """The options of a client's channel, whose messages have so many bytes at most."""
    return [*_CHANNEL_OPTIONS, *_message_options(message_bytes_max)]
