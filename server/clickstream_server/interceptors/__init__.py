"""What stands around every handler. `server_interceptors` is the one ordered list, outermost first."""

from __future__ import annotations

import grpc.aio

from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.interceptors.auth import AuthInterceptor
from clickstream_server.interceptors.drain import DrainInterceptor
from clickstream_server.interceptors.errors import ErrorInterceptor
from clickstream_server.interceptors.limiter import LimiterInterceptor
from clickstream_server.interceptors.observe import ObserveInterceptor
from clickstream_server.interceptors.trailers import TrailerInterceptor


def server_interceptors(
    drain: DrainInterceptor,
    auth: AuthInterceptor,
    observe: ObserveInterceptor | None = None,
    limiter: LimiterInterceptor | None = None,
    *,
    message_bytes_max: int = MESSAGE_BYTES_MAX,
) -> list[grpc.aio.ServerInterceptor]:
    """Errors stand outside of all that may raise, so that it reaches the client in the contract's form.

    What observes stands outside of them, and sees what the client gets.
    """
    limiter = limiter or LimiterInterceptor()
    errors = ErrorInterceptor(message_bytes_max, limiter.admit)
    return [TrailerInterceptor(), *filter(None, [observe]), errors, drain, auth, limiter]
