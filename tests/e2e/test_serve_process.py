"""`clickstream serve` as a process among others: its files, its standard streams, a look at where it stands."""

from __future__ import annotations

import asyncio
import os
import resource
import shlex
import signal
import socket
import sys
from pathlib import Path

import pytest

from clickstream import ClickstreamClient, Session
from harness import PATIENCE_S, SERVING, ServerProcess, free_address, until_health, worker_pids


def limits_of(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_may_open_as_many_files_as_the_system_lets_it(mongodb_uri: str, database: str, workers: int) -> None:
    """What is allowed by default, far less than the streams that it takes, is not what bounds its connections."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most - 1, most))
    try:
        server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    found = {limits_of(pid) for pid in (server.pid, *worker_pids(server.pid).values())}
    assert 0 == await server.stop()

    assert {(most, most)} == found


async def test_that_no_file_can_be_opened_is_said(mongodb_uri: str, database: str) -> None:
    """When connections have taken all files the log says so, once; those that are up work; it recovers by itself."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    host, _, port = server.address.rpartition(":")
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="s-1"))
        most = len(list(Path(f"/proc/{server.pid}/fd").iterdir())) + 20  # noqa: ASYNC240  # in memory
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
        callers = [socket.create_connection((host, int(port))) for _ in range(most)]
        await server.says("no file can be opened any more")
        assert 2 == (await client.register_session(Session(session_id="s-2"))).session.session_number
        for caller in callers:
            caller.close()
        await server.says("files can be opened again")
    assert 0 == await server.stop()
    assert 1 == server.errors.count("no file can be opened any more")


async def test_where_it_stands_can_be_seen_while_it_hangs(mongodb_uri: str, database: str) -> None:
    """SIGUSR1 has it print where each thread is, and go on."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    server.signal(signal.SIGUSR1)
    await server.says("(most recent call first)")
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="s"))
    assert 0 == await server.stop()


async def test_where_it_crashed_is_printed(mongodb_uri: str, database: str) -> None:
    """A crash in a library leaves the place in our code behind."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    server.signal(signal.SIGSEGV)
    await server.says("Segmentation fault")
    assert -signal.SIGSEGV == await server.exited()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "| true", ">/dev/full"])
async def test_it_serves_whatever_its_streams_are(tmp_path: Path, closed: str) -> None:
    """With a stream closed, full, or read by nobody, it starts an embedded MongoDB, serves, and stops with code 0."""
    address, pid, code = free_address(), tmp_path / "pid", tmp_path / "code"
    serve = ["-m", "clickstream_server", "serve", f"--listen={address}", "--ui-listen=off", f"--data-dir={tmp_path}"]
    command = shlex.join([sys.executable, *serve])
    shell = await asyncio.create_subprocess_shell(
        f"{{ sh -c 'echo $$ >{pid}; exec {command}'; echo $? >{code}; }} {closed}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until_health(address, SERVING)
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await shell.wait()
    assert "0" == code.read_text().strip()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_terminal_that_goes_away_is_a_stop_in_order(mongodb_uri: str, database: str, workers: int) -> None:
    """SIGHUP, which comes twice then, stops it as SIGTERM does once."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, workers=workers)
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="s"))
    server.signal(signal.SIGHUP)
    server.signal(signal.SIGHUP)

    assert 0 == await server.exited()


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_outlives_its_terminal_under_nohup(mongodb_uri: str, database: str, workers: int) -> None:
    """Where whoever started it ignores SIGHUP, it goes on with its workers."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, workers=workers)
    finally:
        signal.signal(signal.SIGHUP, before)
    pids = worker_pids(server.pid)
    server.signal(signal.SIGHUP)
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="s"))
    assert pids == worker_pids(server.pid)
    assert 0 == await server.stop()
