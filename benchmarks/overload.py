"""Overload: twice as many registrations as the server can carry. What becomes of those it accepts, and of the rest?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.system import System, rss_bytes
from benchmarks.workload import items
from clickstream import wire
from clickstream.v1 import clickstream_service_pb2 as pb

NAME = "overload"
SECONDS = 60
FACTOR = 2.0
_CAPACITY_S = 10.0
_CALLERS = 48
_UNLOADED_SHARE = 0.1
_UNLOADED_S = 20.0
_CONNECTIONS = 4
_DEADLINE_S = 10.0
_SAMPLE_S = 0.1
_METHOD = "/clickstream.v1.ClickstreamService/RegisterSession"
_TEMPLATES = 200
_MIB = 1024 * 1024


@dataclass(slots=True)
class Phase:
    """What came of the calls of one phase: seconds that each took, by the status that it ended with."""

    took_s: dict[str, list[float]] = field(default_factory=dict)
    lasted_s: float = 0.0

    def note(self, status: str, took_s: float) -> None:
        self.took_s.setdefault(status, []).append(took_s)

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

    `cores`: how much of a core each process had during the overload, the callers' among them. Together they cannot have
    more than there are: near that, the callers are a part of what slows the server down.
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
    health_most_ms: float
    rss_before_mib: float
    rss_most_mib: float
    cores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Load:
    """Registrations over some connections, by clients that retry nothing."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._calls = [channel.unary_unary(_METHOD) for channel in channels]
        self._templates = [
            pb.RegisterSessionRequest(session=wire.session_to_pb(item.session)).SerializeToString()
            for item in items(_TEMPLATES, seed=0)
        ]
        self._numbers = count()

    async def call(self, phase: Phase) -> float | None:
        """One registration; how long to wait if it was refused."""
        number = next(self._numbers)
        # Two messages after each other are one, in which what comes later counts.
        own_id = pb.RegisterSessionRequest(session={"session_id": f"overload-{number}"})  # type: ignore[arg-type]
        request = self._templates[number % _TEMPLATES] + own_id.SerializeToString()
        began = perf_counter()
        try:
            await self._calls[number % len(self._calls)](request, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            phase.note(error.code().name, perf_counter() - began)
            return 0.5
        phase.note("OK", perf_counter() - began)
        return None

    async def closed(self, callers: int, lasts_s: float) -> Phase:
        """Each caller calls again once it has its answer."""
        phase = Phase(lasted_s=lasts_s)
        until = perf_counter() + lasts_s

        async def caller() -> None:
            while perf_counter() < until:
                if wait_s := await self.call(phase):
                    await asyncio.sleep(wait_s)

        await asyncio.gather(*(caller() for _ in range(callers)))
        return phase

    async def open(self, rate: float, lasts_s: float) -> Phase:
        """So many calls a second, whatever becomes of those before."""
        phase = Phase()
        running: set[asyncio.Task[Any]] = set()
        began = perf_counter()
        for place in range(int(rate * lasts_s)):
            if (wait_s := began + place / rate - perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            elif place % 20 == 0:
                await asyncio.sleep(0)
            running.add(task := asyncio.create_task(self.call(phase)))
            task.add_done_callback(running.discard)
        phase.lasted_s = perf_counter() - began
        await asyncio.gather(*running)
        return phase


async def run_overload(system: System, *, seconds: int, progress: Callable[[str], None]) -> Overload:
    """Measure. Fails unless what is stored is what was accepted, numbered without a gap."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.aio.insecure_channel(system.client.target, options=options) for _ in range(_CONNECTIONS)]
    probes = grpc.aio.insecure_channel(system.client.target, options=options)
    load = _Load(channels)
    unloaded = await load.open(50.0, 2.0)  # connections, caches
    capacity = (await load.closed(_CALLERS, _CAPACITY_S)).rate("OK")
    progress(f"overload: the server carries {capacity:,.0f} registrations a second")
    await asyncio.sleep(2.0)
    unloaded = await load.open(capacity * _UNLOADED_SHARE, _UNLOADED_S)
    progress(f"overload: unloaded, {unloaded.median_ms('OK'):.1f} ms")
    watched = _Watch(system.pids["server"], health_pb2_grpc.HealthStub(probes))
    used_s = system.cpu_s()
    over = await watched.during(load.open(capacity * FACTOR, seconds))
    cores = {name: (now_s - used_s[name]) / over.lasted_s for name, now_s in system.cpu_s().items()}
    for channel in [*channels, probes]:
        await channel.close()
    statuses = {status: len(took) for status, took in over.took_s.items()}
    progress(f"overload: {statuses}")
    stored = system.ours.sessions.count_documents({})
    counters = [batch["session_counter"] for batch in system.ours.batches.find()]
    assert sum(counters) == stored, (counters, stored)
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

    async def during(self, work: Awaitable[Phase]) -> Phase:
        watching = asyncio.create_task(self._watch())
        try:
            return await work
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _watch(self) -> None:
        while True:
            self.rss.append(rss_bytes(self._pid))
            began = perf_counter()
            await self._health.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_S)
            self.health_s.append(perf_counter() - began)
            await asyncio.sleep(_SAMPLE_S)
