"""Overload: twice as many registrations as the server can carry. What becomes of those it accepts, and of the rest?"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from itertools import count
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.system import System, rss_bytes

NAME = "overload"
SECONDS = 60
FACTOR = 2.0
_CAPACITY_S = 10.0
_CALLERS = 48
_UNLOADED_SHARE = 0.1
_UNLOADED_S = 20.0
_DEADLINE_S = 10.0
_SAMPLE_S = 0.1
_IDS = 100_000_000
"""So many ids has each phase."""
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Phase:
    """What came of the calls of one phase: seconds that each took, by the status that it ended with.

    `late_s`: by how much the callers were late at most, but for one call in a hundred. `used_s`: of the processor.
    """

    took_s: dict[str, list[float]]
    lasted_s: float
    late_s: float
    used_s: float

    def rate(self, status: str) -> float:
        return len(self.took_s.get(status, ())) / self.lasted_s

    def median_ms(self, status: str) -> float:
        return median(self.took_s.get(status) or [0.0]) * 1000

    def p99_ms(self, status: str) -> float:
        found = self.took_s.get(status, [])
        return quantiles(found, n=100)[98] * 1000 if len(found) > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """What was measured; times in milliseconds, memory of the server in MiB.

    `late_ms`: by how much calls came too late, but for one in a hundred. `cores`: how much of a core each process had
    during the overload, the callers' among them. Together they cannot have more than there are: near that, the callers
    are a part of what slows the server down.
    """

    capacity: float
    unloaded_rate: float
    unloaded_median_ms: float
    unloaded_p99_ms: float
    offered: float
    accepted: float
    accepted_median_ms: float
    accepted_p99_ms: float
    refused: float
    refused_median_ms: float
    refused_p99_ms: float
    other: dict[str, int]
    late_ms: float
    health_most_ms: float
    rss_before_mib: float
    rss_most_mib: float
    cores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Callers:
    """Processes that call, one a phase; each calls with ids of its own."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._first = count(0, _IDS)
        self.accepted = self.sent = 0

    async def call(self, lasts_s: float, *, rate: float = 0, callers: int = 0) -> Phase:
        """So many calls a second, whatever becomes of those before; or callers who wait for their answers."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.firing", self._target, str(next(self._first))),
            *(str(lasts_s), str(rate), str(callers)),
            stdout=asyncio.subprocess.PIPE,
        )
        found = json.loads((await process.communicate())[0])
        assert process.returncode == 0, "those who call failed; why stands above"
        late_s = sorted(found["late_s"]) or [0.0]
        took_s = {status: [took for _, took in calls] for status, calls in found["calls"].items()}
        self.accepted += len(took_s.get("OK", ()))
        self.sent += sum(map(len, took_s.values()))
        return Phase(took_s, found["lasted_s"], late_s[len(late_s) * 99 // 100], found["used_s"])


async def run_overload(system: System, *, seconds: int, progress: Callable[[str], None]) -> Overload:
    """Measure. Fails if what was accepted is not stored, or a number was skipped."""
    callers = _Callers(system.client.target)
    await callers.call(2.0, rate=50.0)  # caches
    capacity = (await callers.call(_CAPACITY_S, callers=_CALLERS)).rate("OK")
    progress(f"overload: the server carries {capacity:,.0f} registrations a second")
    await asyncio.sleep(2.0)
    unloaded = await callers.call(_UNLOADED_S, rate=capacity * _UNLOADED_SHARE)
    progress(f"overload: unloaded, {unloaded.median_ms('OK'):.1f} ms")
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(system.client.target, options=options) as probes:
        watched = _Watch(system.pids["server"], health_pb2_grpc.HealthStub(probes))
        used_s = system.cpu_s()
        over = await watched.during(callers.call(seconds, rate=capacity * FACTOR))
    cores = {name: (now_s - used_s[name]) / over.lasted_s for name, now_s in system.cpu_s().items()}
    cores["client"] = over.used_s / over.lasted_s
    statuses = {status: len(took) for status, took in over.took_s.items()}
    progress(f"overload: {statuses}")
    stored = system.ours.sessions.count_documents({})
    counters = [batch["session_counter"] for batch in system.ours.batches.find()]
    assert sum(counters) == stored, (counters, stored)
    assert callers.accepted <= stored <= callers.sent, (callers.accepted, stored, callers.sent)
    assert not watched.health_failed, f"{watched.health_failed} health checks failed"
    return Overload(
        capacity=capacity,
        unloaded_rate=unloaded.rate("OK"),
        unloaded_median_ms=unloaded.median_ms("OK"),
        unloaded_p99_ms=unloaded.p99_ms("OK"),
        offered=sum(statuses.values()) / over.lasted_s,
        accepted=over.rate("OK"),
        accepted_median_ms=over.median_ms("OK"),
        accepted_p99_ms=over.p99_ms("OK"),
        refused=over.rate("RESOURCE_EXHAUSTED"),
        refused_median_ms=over.median_ms("RESOURCE_EXHAUSTED"),
        refused_p99_ms=over.p99_ms("RESOURCE_EXHAUSTED"),
        other={status: number for status, number in statuses.items() if status not in {"OK", "RESOURCE_EXHAUSTED"}},
        late_ms=over.late_s * 1000,
        health_most_ms=max(watched.health_s) * 1000,
        rss_before_mib=watched.rss[0] / _MIB,
        rss_most_mib=max(watched.rss) / _MIB,
        cores=cores,
    )


class _Watch:
    """Samples of the server's memory and of its health's latency."""

    def __init__(self, pid: int, health: health_pb2_grpc.HealthStub) -> None:
        self._pid = pid
        self._health = health
        self.rss: list[int] = []
        self.health_s: list[float] = []
        self.health_failed = 0
        self._over = False

    async def during(self, work: Awaitable[Phase]) -> Phase:
        watching = asyncio.create_task(self._watch())
        try:
            return await work
        finally:
            self._over = True
            await watching

    async def _watch(self) -> None:
        while not self._over:
            self.rss.append(rss_bytes(self._pid))
            began = perf_counter()
            try:
                await self._health.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)
            except grpc.aio.AioRpcError:
                self.health_failed += 1
            self.health_s.append(perf_counter() - began)
            await asyncio.sleep(_SAMPLE_S)
