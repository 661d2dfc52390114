"""One address with the metrics of all workers, also while these die."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

from clickstream import ClickstreamClient, Session
from harness import ServerProcess, eventually, worker_pids
from scraping import Watched

REGISTERED = {"method": "clickstream.v1.ClickstreamService/RegisterSession", "code": "OK"}
CALLS = "clickstream_rpc_requests_total"


async def register(address: str, first: int, count: int) -> None:
    """By a client each: the kernel gives their connections to any worker."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(ClickstreamClient(address)) for _ in range(count)]
        await asyncio.gather(
            *(client.register_session(Session(session_id=f"s-{first + n}")) for n, client in enumerate(clients))
        )


async def test_the_counts_of_all_workers_are_one_and_never_go_back(mongodb_uri: str, database: str) -> None:
    """Any scrape tells the sum of all workers; what a killed one had told stays, and a new one adds to it."""
    process = await ServerProcess.start(
        workers=2, mongodb_uri=mongodb_uri, mongodb_database=database, metrics_listen="127.0.0.1:0"
    )
    url = next(line.split()[1] for line in process.output if line.startswith("metrics:"))
    async with ClickstreamClient(process.address) as client:
        server = Watched(client, url)
        await server.until(2, "clickstream_workers")
        await register(process.address, 0, 32)
        await server.until(32, CALLS, **REGISTERED)
        await server.until(32, "clickstream_group_commit_sessions_sum")
        assert 1 == await server.sum("clickstream_health_serving")

        for killed in (1, 2):
            pid = worker_pids(process.pid)[killed]
            os.kill(pid, signal.SIGKILL)

            async def replaced(killed: int = killed, pid: int = pid) -> bool:
                assert 32 * killed == await server.sum(CALLS, **REGISTERED)
                return worker_pids(process.pid).get(killed, pid) != pid

            await eventually(replaced, "another worker is there")
            await server.until(killed, "clickstream_worker_restarts_total")
            await server.until(2, "clickstream_workers")
            await register(process.address, 100 * killed, 32)
            await server.until(32 * (killed + 1), CALLS, **REGISTERED)
            await server.until(32 * (killed + 1), "clickstream_writes_total", outcome="inserted")
    assert 0 == await process.stop()


async def test_a_worker_that_stops_in_order_has_told_everything(mongodb_uri: str, database: str) -> None:
    """What a worker counts just before it is asked to stop is in the sums: it tells once more at its end."""
    process = await ServerProcess.start(
        workers=2, mongodb_uri=mongodb_uri, mongodb_database=database, metrics_listen="127.0.0.1:0"
    )
    url = next(line.split()[1] for line in process.output if line.startswith("metrics:"))
    async with ClickstreamClient(process.address) as client:
        server = Watched(client, url)
        await register(process.address, 0, 32)
        for pid in worker_pids(process.pid).values():
            os.kill(pid, signal.SIGTERM)

        await server.until(2, "clickstream_worker_restarts_total")
        await server.until(32, CALLS, **REGISTERED)
    assert 0 == await process.stop()
