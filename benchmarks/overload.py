"""Overload: twice as many registrations as the server can carry. What becomes of those it accepts, and of the rest?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.firing import HELD_BACK, OK, REFUSED
from benchmarks.system import System, rss_bytes, run_module

NAME = "overload"
SECONDS = 60
FACTOR = 2.0
PACED, HEEDLESS = "callers who hold back, as our client does", "callers who send everything"
_CAPACITY_S = 10.0
_CALLERS = 48
_UNLOADED_SHARE = 0.1
_UNLOADED_S = 20.0
_PAUSE_S = 2.0
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


@dataclass(frozen=True, slots=True)
class LoadedPhase:
    """A phase of too much load; times in milliseconds, memory of the server in MiB.

    `cores`: how much of a core each process had, the callers' among them. Together they cannot have more than there
    are: near that, the callers are a part of what slows the server down.
    """

    phase: Phase
    health_most_ms: float
    rss_before_mib: float
    rss_most_mib: float
    cores: dict[str, float]

    @property
    def other(self) -> dict[str, int]:
        """How many calls ended in a way that none should."""
        return {
            status: len(took) for status, took in self.phase.took_s.items() if status not in {OK, REFUSED, HELD_BACK}
        }

    def as_json(self) -> dict[str, Any]:
        figures = {
            name: {
                "per_s": self.phase.rate(name),
                "median_ms": self.phase.median_ms(name),
                "p99_ms": self.phase.p99_ms(name),
            }
            for name in self.phase.took_s
        }
        names = ("other", "health_most_ms", "rss_before_mib", "rss_most_mib", "cores")
        more = {name: getattr(self, name) for name in names}
        return {"calls": figures, "late_ms": self.phase.late_s * 1000} | more


@dataclass(frozen=True, slots=True)
class Overload:
    """What was measured. `capacity`: calls a second. `loads`: by what the callers do about refusals."""

    capacity: float
    unloaded: Phase
    loads: dict[str, LoadedPhase]

    def as_json(self) -> dict[str, Any]:
        return {
            "capacity": self.capacity,
            "unloaded_per_s": self.unloaded.rate(OK),
            "unloaded_median_ms": self.unloaded.median_ms(OK),
            "unloaded_p99_ms": self.unloaded.p99_ms(OK),
            "loads": {name: load.as_json() for name, load in self.loads.items()},
        }


class _Callers:
    """Processes that call, one a phase; each calls with ids of its own.

    `accepted`: how many calls so far, each of which must be stored. `unknown`: how many may be. The others must not.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._first = count(0, _IDS)
        self.accepted = self.unknown = 0

    async def call(self, lasts_s: float, *, rate: float = 0, callers: int = 0, hold_back: bool = False) -> Phase:
        """So many calls a second, whatever becomes of those before; or callers who wait for their answers."""
        code, out, _ = await run_module(
            *("benchmarks.firing", self._target, str(next(self._first))),
            *(str(lasts_s), str(rate), str(callers), HELD_BACK if hold_back else ""),
            stdout=asyncio.subprocess.PIPE,
        )
        assert code == 0, "those who call failed; why stands above"
        found = json.loads(out)
        late_s = sorted(found["late_s"]) or [0.0]
        took_s = {status: [took for _, took in calls] for status, calls in found["calls"].items()}
        self.accepted += len(took_s.get(OK, ()))
        self.unknown += sum(len(took) for status, took in took_s.items() if status not in {OK, REFUSED, HELD_BACK})
        return Phase(took_s, found["lasted_s"], late_s[len(late_s) * 99 // 100], found["used_s"])


async def run_overload(system: System, *, seconds: int, progress: Callable[[str], None]) -> Overload:
    """Measure. Fails if what was accepted is not stored, what was refused is, or a number was skipped."""
    callers = _Callers(system.client.target)
    await callers.call(2.0, rate=50.0)  # caches
    capacity = (await callers.call(_CAPACITY_S, callers=_CALLERS)).rate(OK)
    progress(f"overload: the server carries {capacity:,.0f} registrations a second")
    await asyncio.sleep(_PAUSE_S)
    unloaded = await callers.call(_UNLOADED_S, rate=capacity * _UNLOADED_SHARE)
    progress(f"overload: unloaded, {unloaded.median_ms(OK):.1f} ms")
    loads = {}
    for name, hold_back in ((PACED, True), (HEEDLESS, False)):
        await asyncio.sleep(_PAUSE_S)
        loads[name] = await _loaded(system, callers.call(seconds, rate=capacity * FACTOR, hold_back=hold_back))
        ends = {status: len(took) for status, took in loads[name].phase.took_s.items()}
        progress(f"overload, {name}: {ends}")
    stored = system.ours.sessions.count_documents({})
    counters = [batch["session_counter"] for batch in system.ours.batches.find()]
    assert sum(counters) == stored, (counters, stored)
    assert 0 <= stored - callers.accepted <= callers.unknown, (stored, callers.accepted, callers.unknown)
    return Overload(capacity, unloaded, loads)


async def _loaded(system: System, calls: Awaitable[Phase]) -> LoadedPhase:
    """What the calls came to, and the server meanwhile. Fails if health was not answered."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(system.client.target, options=options) as probes:
        watched = _Watch(system.pids["server"], health_pb2_grpc.HealthStub(probes))
        used_s = system.cpu_s()
        phase = await watched.during(calls)
    assert not watched.health_failed, f"{watched.health_failed} health checks failed"
    cores = {name: (now_s - used_s[name]) / phase.lasted_s for name, now_s in system.cpu_s().items()}
    cores["client"] = phase.used_s / phase.lasted_s
    rss_before, rss_most = watched.rss[0] / _MIB, max(watched.rss) / _MIB
    return LoadedPhase(phase, max(watched.health_s) * 1000, rss_before, rss_most, cores)


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
