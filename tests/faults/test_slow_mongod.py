"""An embedded mongod that takes long to start or to stop, as on a slow disk: it is waited for, and can be stopped."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from pathlib import Path

import pytest

from clickstream_server import embedded, folder_lock
from clickstream_server.embedded import EmbeddedMongo, find_mongod
from clickstream_server.failures import StartFailure
from harness import PATIENCE_S, ServerProcess, ended, eventually, freeze, mongod_pid, runs, start_program

WAITED_FOR = "is waited for"


def slow_mongod(folder: Path) -> tuple[Path, Path]:
    """A mongod that begins to work only once a file is there; it, and the file."""
    program, go = folder / "mongod", folder / "go"
    program.write_text(f'#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done\nexec {find_mongod("")} "$@"\n')
    program.chmod(0o755)
    return program, go


async def said(caplog: pytest.LogCaptureFixture, times: int) -> str:
    """What is said again and again, once it was said so often."""

    async def found() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if WAITED_FOR in record.getMessage()]
        return lines if len(lines) >= times else []

    return (await eventually(found, "it says that it waits"))[-1]


async def test_a_slow_start_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mongod that runs and does not serve yet is waited for, the log says so now and then, and then it is used."""
    monkeypatch.setattr(embedded, "_SAY_EVERY_S", 0.1)
    program, go = slow_mongod(tmp_path)
    mongo = EmbeddedMongo(tmp_path / "data", str(program))
    starting = asyncio.create_task(mongo.start())
    try:
        assert str(mongo.log_file) in await said(caplog, 3)
        assert not starting.done()
        go.touch()
        await starting
    finally:
        await mongo.stop()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_start_that_takes_long_can_be_stopped(tmp_path: Path, workers: int) -> None:
    """A server whose mongod stands still while it starts ends in order when it is asked to, and its mongod with it."""
    process = await start_program("serve", "--listen=127.0.0.1:0", f"--data-dir={tmp_path}", f"--workers={workers}")

    async def begun() -> int:
        lock = tmp_path / "db" / "mongod.lock"
        return int(lock.read_text() or 0) if lock.exists() else 0

    try:
        mongod = await eventually(begun, "mongod has its folder")
        await freeze(mongod)
        process.send_signal(signal.SIGTERM)
    finally:
        code, _, _ = await ended(process)

    assert 0 == code
    assert not runs(mongod)


async def test_a_slow_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the mongod of a killed server takes long to stop, the next server says which process it waits for."""
    server = await ServerProcess.start(data_dir=tmp_path)
    pid = mongod_pid(tmp_path)
    await freeze(pid)
    await server.kill()
    monkeypatch.setattr(folder_lock, "_SAY_EVERY_S", 0.1)
    monkeypatch.setattr(folder_lock, "_NOBODY_SEEN_S_MAX", 0.1)  # it is seen to run
    mongo = EmbeddedMongo(tmp_path)
    starting = asyncio.create_task(mongo.start())
    try:
        assert f"process {pid}" in await said(caplog, 3)
        assert not starting.done()
        os.kill(pid, signal.SIGCONT)
        await starting
    finally:
        await mongo.stop()


async def test_a_folder_that_is_locked_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that nobody holds who is seen from here, as in another container, is refused after a while."""
    monkeypatch.setattr(folder_lock, "_NOBODY_SEEN_S_MAX", 0.1)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "mongod.lock").write_text(f"{os.getpid()}\n")  # a number that here is somebody else's
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StartFailure, match=r"is in use by .*cannot be seen from here.*CLICKSTREAM_DATA_DIR"):
            async with asyncio.timeout(PATIENCE_S):
                await EmbeddedMongo(tmp_path).start()

    mongo = EmbeddedMongo(tmp_path)
    await mongo.start()  # once it is given free
    await mongo.stop()
