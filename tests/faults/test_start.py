"""A server that starts before its database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient, Session, StorageUnavailable
from clickstream_server.embedded import EmbeddedMongo, find_mongod
from harness import NOT_SERVING, PATIENCE_S, SERVING, eventually, free_port, health_of, start_program, until_health
from scraping import scrape


@asynccontextmanager
async def starting(uri: str, workers: int, *more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`clickstream serve`, which need not serve yet, and its address."""
    address = f"127.0.0.1:{free_port()}"
    process = await start_program("serve", f"--listen={address}", f"--mongodb-uri={uri}", f"--workers={workers}", *more)
    try:
        yield process, address
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(stream: asyncio.StreamReader, text: str) -> str:
    """The next line that has this text."""
    async with asyncio.timeout(PATIENCE_S):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"nobody said {text!r}")


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_server_waits_for_its_database(workers: int) -> None:
    """Without a database it says so, without the URI's password, is NOT_SERVING, and refuses calls."""
    uri = f"mongodb://admin:hunter2@127.0.0.1:{free_port()}/?replicaSet=rs"
    async with starting(uri, workers) as (process, address), ClickstreamClient(address, deadline_s=5) as client:
        said = await line_with(process.stderr, "no MongoDB answers")
        await until_health(address, NOT_SERVING)
        with pytest.raises(StorageUnavailable) as raised:
            await client.register_session(Session(session_id="s"))

    assert "It is waited for" in said
    assert "(configured" not in said
    assert "[Errno 111]" in said
    assert "hunter2" not in said
    assert raised.value.retry_after_s


@pytest.mark.parametrize("workers", [1, 2])
async def test_that_it_waits_is_told(tmp_path: Path, workers: int) -> None:
    """Metrics tell that a server without its database does not serve and does not stop, then that it serves."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    await mongo.stop()
    listen = f"127.0.0.1:{free_port()}"

    async def told() -> tuple[float, ...] | None:
        """What is told of serving and of draining."""
        with suppress(aiohttp.ClientConnectionError):
            found = {
                sample.name: sample.value
                for metric in await scrape(f"http://{listen}/metrics")
                for sample in metric.samples
            }
            return found.get("clickstream_health_serving", -1), found.get("clickstream_draining", -1)
        return None

    try:
        async with starting(uri, workers, f"--metrics-listen={listen}") as (process, _):
            await line_with(process.stderr, "no MongoDB answers")
            assert (0, 0) == await eventually(told, "metrics are told")
            await mongo.start()
            await line_with(process.stdout, "serves on")

            async def serves() -> bool:
                return await told() == (1, 0)

            await eventually(serves, "it is told that it serves")
    finally:
        await mongo.stop()


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_serves_once_the_database_is_there(tmp_path: Path, workers: int) -> None:
    """A database that comes minutes later is found: the server then says that it serves, and does."""
    mongo = EmbeddedMongo(tmp_path)
    uri = await mongo.start()
    await mongo.stop()
    try:
        async with starting(uri, workers) as (process, address), ClickstreamClient(address) as client:
            await line_with(process.stderr, "no MongoDB answers")
            assert uri == await mongo.start()

            assert address in await line_with(process.stdout, "serves on")
            assert SERVING == await health_of(address)
            assert 1 == (await client.register_session(Session(session_id="s"))).session.session_number
    finally:
        await mongo.stop()


@pytest.mark.parametrize("workers", [1, 2])
async def test_waiting_can_be_stopped(workers: int) -> None:
    """A server that waits for its database stops at once when it is asked to, in order."""
    async with starting(f"mongodb://127.0.0.1:{free_port()}/?replicaSet=rs", workers) as (process, address):
        await line_with(process.stderr, "no MongoDB answers")
        await until_health(address, NOT_SERVING)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()

        assert (0, b"stopped\n") == (process.returncode, out)


async def test_a_replica_set_that_was_not_initiated_is_waited_for(tmp_path: Path) -> None:
    """A mongod with --replSet that nobody has initiated is no lone server: what to do is said, and it is waited for."""
    port = free_port()
    mongod = await asyncio.create_subprocess_exec(
        *(str(find_mongod("")), "--dbpath", str(tmp_path), "--port", str(port), "--bind_ip", "127.0.0.1"),
        *("--replSet", "rs", "--nounixsocket"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with (
            starting(f"mongodb://127.0.0.1:{port}/?directConnection=true", 1) as (process, address),
            AsyncMongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true") as mongo,
        ):
            await line_with(process.stderr, "rs.initiate()")
            members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
            await mongo.admin.command("replSetInitiate", {"_id": "rs", "members": members})
            assert address in await line_with(process.stdout, "serves on")
    finally:
        mongod.terminate()
        await mongod.wait()
