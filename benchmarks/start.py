"""How long `clickstream serve` takes until it is SERVING, with the embedded MongoDB, on data that were there before."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.contest import Result, Run
from benchmarks.marks import at_most_ms
from clickstream_server.embedded import die_with_parent

NAME = "start"
ROUNDS = 5
_LOOK_AGAIN_S = 0.005


async def run_start(folder: Path, who: str, driver: str, *, rounds: int, progress: Callable[[str], None]) -> Result:
    """The first start, which makes the data, is not counted."""
    runs = []
    for number in range(rounds + 1):
        seconds = await _start(folder, driver)
        progress(f"start {number} of {rounds}: SERVING after {seconds:.2f} s")
        runs.append(Run(1, seconds, {}, {}, seconds * 1000))
    return Result(NAME, "starts", 1, [who], {who: runs[1:]}, in_ms=True, marks=(at_most_ms(3_000),))


async def _start(folder: Path, driver: str) -> float:
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clickstream_server", "serve", "--listen=127.0.0.1:0", "--ui-listen=127.0.0.1:0"),
        *(f"--data-dir={folder}", f"--mongodb-driver={driver}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent(),
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip().split("serves on ")[1]
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return perf_counter() - began
                await asyncio.sleep(_LOOK_AGAIN_S)
    finally:
        process.terminate()
        await process.communicate()
