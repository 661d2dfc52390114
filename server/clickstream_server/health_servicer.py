"""The service `grpc.health.v1.Health`; see grpc/health/v1/health.proto for what it promises.

Not the one of grpcio-health-checking: that writes to a watcher while it holds the lock that a change needs, so that one
watcher that takes nothing holds up all changes; and one that leaves takes the others' way to hear of them with it.
Health needs no token, so whoever does that may be a stranger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

STATUS = health_pb2.HealthCheckResponse
WATCHERS_MAX = 2_000
"""So many may watch at a time. Each takes 28 KiB, and a connection may bring a thousand of them."""


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated without types
    """Tells the status of each name. Nobody who asks holds up a change, or keeps more than its request."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._watchers: set[_Watcher] = set()

    def set(self, service: str, status: int) -> None:
        """From now on this is what is told."""
        self._statuses[service] = status
        for watcher in self._watchers:
            watcher.changed.set()
            watcher.up_to_date.clear()

    async def told(self, timeout_s: float) -> None:
        """Wait until all watchers have taken what was set, or for so long: some may take nothing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for watcher in [*self._watchers]:
                    await watcher.up_to_date.wait()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of this name")
        return STATUS(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        if len(self._watchers) >= WATCHERS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch; call Check")
        watcher = _Watcher(request.service)
        self._watchers.add(watcher)
        try:
            while True:
                while self._is_behind(watcher):
                    status = self._status(watcher)
                    yield STATUS(status=status)
                    watcher.told = status
                watcher.up_to_date.set()
                watcher.changed.clear()
                await watcher.changed.wait()
        finally:
            self._watchers.discard(watcher)
            watcher.up_to_date.set()

    def _status(self, watcher: _Watcher) -> int:
        status: int = self._statuses.get(watcher.service, STATUS.SERVICE_UNKNOWN)
        return status

    def _is_behind(self, watcher: _Watcher) -> bool:
        """Whether it was told something else last: what was set and changed again meanwhile need not be told."""
        return watcher.told != self._status(watcher)


class _Watcher:
    """One call of Watch. `told`: what it took last."""

    __slots__ = ("changed", "service", "told", "up_to_date")

    def __init__(self, service: str) -> None:
        self.service = service
        self.changed, self.up_to_date = asyncio.Event(), asyncio.Event()
        self.told: int | None = None
