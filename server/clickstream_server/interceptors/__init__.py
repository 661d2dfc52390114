"""What stands around every handler."""

from __future__ import annotations

import grpc.aio

from clickstream_server.interceptors.auth import Auth
from clickstream_server.interceptors.drain import Drain
from clickstream_server.interceptors.limiter import Limiter
from clickstream_server.interceptors.observe import Observe
from clickstream_server.interceptors.parsing import Parsing
from clickstream_server.interceptors.stack import CallInterceptor
from clickstream_server.limits import Limits


def server_interceptors(
    drain: Drain,
    auth: Auth,
    observe: Observe | None = None,
    limiter: Limiter | None = None,
    *,
    limits: Limits | None = None,
) -> list[grpc.aio.ServerInterceptor]:
    """What a server is to be made with; `stack` has the order."""
    limiter = limiter or Limiter()
    return [CallInterceptor(observe or Observe(), Parsing(limits or Limits(), limiter.admit), drain, auth, limiter)]
