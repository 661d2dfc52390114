"""Health as `grpc.health.v1` has it: SERVING while the database takes calls; under `liveness`: while the process works.

Whoever restarts servers must ask for `liveness`: a restart does not bring a lost database back, and loses what waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic

import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from clickstream.errors import ClickstreamError
from clickstream_server.health_servicer import STATUS, HealthServicer
from clickstream_server.interceptors.call import HEALTH_BYTES_MAX
from clickstream_server.listening import HEALTH_LISTEN, bind, server_options

LIVENESS = "liveness"

_LOOK_EVERY_S = 1.0
_PING_S = 2.0
_STOP_S_MAX = 1.0
"""With PyMongo Async a look may miss that it was cancelled: see `event_loop`."""
_SAY_EVERY_S = 10.0
"""So often, at most, another reason is told while the database stays away: what is known of it at first is little."""
_TELL_S_MAX = 0.5
"""How long watchers may take to learn of the stop."""
_log = logging.getLogger(__name__)


class HealthMonitor:
    """Keeps the health of the server ("") and of each service up to date with the database's."""

    def __init__(
        self,
        ping: Callable[[float], Awaitable[None]],
        services: list[str],
        *,
        why: Callable[[ClickstreamError], str] = lambda _: "",
    ) -> None:
        self._ping = ping
        self._why = why
        self._said = ""
        self._say_again_at = 0.0
        self._names = ["", *services]
        self._task: asyncio.Task[None] | None = None
        self._serving: bool | None = None
        self._stopped = False
        self.servicer = HealthServicer()

    @property
    def serving(self) -> bool:
        """Whether the database took calls when it was asked last."""
        return self._serving is True

    def begin(self) -> None:
        """Before the first look: the process works, and nothing is to be sent to it yet."""
        self.servicer.set(LIVENESS, STATUS.SERVING)
        self._say(STATUS.NOT_SERVING)

    async def start(self) -> None:
        """Look once, so that the first answer is true, then go on looking."""
        await self._look()
        self._task = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Say NOT_SERVING for good. Liveness goes on, so that nobody kills the process before its last call is done."""
        self._stopped = True
        self._say(STATUS.NOT_SERVING)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_S_MAX)
        await self.servicer.told(_TELL_S_MAX)

    async def _keep_looking(self) -> None:
        while not self._stopped:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        try:
            await self._ping(_PING_S)
            serving, why = True, ""
        except ClickstreamError as error:
            serving, why = False, self._why(error)
        except Exception:
            _log.exception("the health check failed")
            serving, why = False, ""
        if self._stopped:
            return
        if serving != self._serving or (why != self._said and monotonic() >= self._say_again_at):
            level = logging.INFO if serving and self._serving is None else logging.WARNING
            _log.log(level, "the database %s", "answers" if serving else f"does not answer{': ' if why else ''}{why}")
            self._said, self._say_again_at = why, monotonic() + _SAY_EVERY_S
        if serving != self._serving:
            self._serving = serving
            self._say(STATUS.SERVING if serving else STATUS.NOT_SERVING)

    def _say(self, status: int) -> None:
        for name in self._names:
            self.servicer.set(name, status)


@asynccontextmanager
async def health_served(
    listen: str,
    servicer: HealthServicer,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    *,
    share_port: bool = False,
) -> AsyncIterator[None]:
    """Serve health, and nothing else, on an address of its own, without TLS and tokens. Raises StartFailure.

    For probes that know neither, as Kubernetes' do not.
    """
    options = server_options(message_bytes_max=HEALTH_BYTES_MAX, share_port=share_port)
    server = grpc.aio.server(interceptors=interceptors, options=options)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    bind(server, listen, None, HEALTH_LISTEN)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
