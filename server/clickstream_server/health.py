"""Health as `grpc.health.v1` has it: SERVING while the database takes calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from clickstream.errors import ClickstreamError

_LOOK_EVERY_S = 1.0
_PING_S = 2.0
_log = logging.getLogger(__name__)


class HealthMonitor:
    """Keeps the health of the server ("") and of each service up to date with the database's."""

    def __init__(self, ping: Callable[[float], Awaitable[None]], services: list[str]) -> None:
        self._ping = ping
        self._names = ["", *services]
        self._task: asyncio.Task[None] | None = None
        self._serving: bool | None = None
        self.servicer: Any = health_aio.HealthServicer()

    async def start(self) -> None:
        """Look once, so that the first answer is true, then go on looking."""
        await self._look()
        self._task = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Say NOT_SERVING for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.servicer.enter_graceful_shutdown()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        try:
            await self._ping(_PING_S)
            serving = True
        except ClickstreamError:
            serving = False
        except Exception:
            _log.exception("the health check failed")
            serving = False
        if serving != self._serving:
            level = logging.INFO if serving and self._serving is None else logging.WARNING
            _log.log(level, "the database %s", "answers" if serving else "does not answer")
            self._serving = serving
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in self._names:
                await self.servicer.set(name, status)
