"""Following: how long after a session's commit do many readers of one server have it?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median, quantiles
from time import time
from typing import Any

import grpc.aio

from benchmarks.system import System
from benchmarks.workload import items
from clickstream.v1 import clickstream_service_pb2 as pb

NAME = "follow"
ITEMS = 200
READERS = 100
_SESSIONS_PER_S = 10
_METHOD = "/clickstream.v1.ClickstreamService/GetBatchSessions"
_PATIENCE_S = 60.0
_MILLIS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class Latency:
    """From the commit of a session to its arrival at a reader, in milliseconds, over all sessions and readers.

    It is measured from `registered_at`, which is taken in the transaction: so the commit itself is part of it.
    """

    readers: int
    sessions: int
    median_ms: float
    p99_ms: float
    most_ms: float
    server_cpu_ms: float
    """The processor's time of the server for one session: numbering it, and bringing it to all readers."""

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Reader:
    """One follower with a connection of its own; keeps what came, and when, and reads it only afterwards."""

    def __init__(self) -> None:
        self.came: list[tuple[float, bytes]] = []
        self.follows = asyncio.Event()

    async def follow(self, target: str, request: pb.GetBatchSessionsRequest) -> None:
        async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            async for answer in channel.unary_stream(_METHOD)(request.SerializeToString()):
                self.came.append((time(), answer))
                self.follows.set()

    def arrivals(self) -> list[tuple[int, float]]:
        """Number and latency in seconds of each session, in the order of arrival."""
        return [
            (found.session_number, at - found.registered_at.ToMicroseconds() / 1e6)
            for at, answer in self.came
            for found in pb.GetBatchSessionsResponse.FromString(answer).sessions
        ]


async def run_follow(system: System, number: int, *, sessions: int, progress: Callable[[str], None]) -> Latency:
    """Round `number`: register sessions one by one, at a steady pace, and release.

    Fails unless every reader got each session once, in order.
    """
    given = [item.session for item in items(sessions + 1, seed=number)]
    batch_id = (await system.client.register_session(given.pop())).session.batch_id
    readers = [_Reader() for _ in range(READERS)]
    request = pb.GetBatchSessionsRequest(batch_id=batch_id, follow=True)
    async with AsyncExitStack() as stack:
        following = [asyncio.create_task(reader.follow(system.client.target, request)) for reader in readers]
        for task in following:
            stack.callback(task.cancel)
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*(reader.follows.wait() for reader in readers))
        before = system.cpu_s()["server"]
        loop = asyncio.get_running_loop()
        start = loop.time()
        for place, session in enumerate(given):
            await asyncio.sleep(start + place / _SESSIONS_PER_S - loop.time())
            await system.client.register_session(session)
        await system.client.release_batch(f"follow-{number}")
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*following)
        cpu_s = system.cpu_s()["server"] - before
    progress(f"follow: round {number} is over")
    arrived = [reader.arrivals() for reader in readers]
    assert all([number for number, _ in one] == list(range(1, sessions + 2)) for one in arrived)
    waits_ms = [wait_s * _MILLIS_PER_S for one in arrived for _, wait_s in one[1:]]
    return Latency(
        readers=READERS,
        sessions=sessions,
        median_ms=median(waits_ms),
        p99_ms=quantiles(waits_ms, n=100)[98],
        most_ms=max(waits_ms),
        server_cpu_ms=cpu_s * _MILLIS_PER_S / sessions,
    )
