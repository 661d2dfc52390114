"""A worker whose event loop stands still is replaced; one that is waited for by nobody else's fault is not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clickstream import ClickstreamClient, Session
from clickstream_server.app import Running
from clickstream_server.config import Settings
from clickstream_server.workers import supervisor, watch
from harness import eventually, freeze, stands_still, worker_pids

HANGS_AFTER_S = 4.0
STANDS_STILL = """
import signal, time
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))
"""


@asynccontextmanager
async def supervised(uri: str, database: str) -> AsyncIterator[Running]:
    """A server with two workers, whose supervisor is this process."""
    settings = Settings(
        listen="127.0.0.1:0", ui_listen="off", mongodb_uri=uri, mongodb_database=database, workers=2, drain_s=1.0
    )
    stop, serves = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(supervisor.until(stop, settings, serves.set_result))
    try:
        await asyncio.wait([serving, serves], return_when=asyncio.FIRST_COMPLETED)
        yield serves.result()
    finally:
        stop.set()
        await serving


def workers() -> dict[int, int]:
    """The processes of this supervisor's workers."""
    return worker_pids(os.getpid())


async def both_workers(but: int = 0) -> dict[int, int]:
    """Those of both, none of which is `but`."""

    async def there() -> dict[int, int]:
        found = workers()
        return found if len(found) == 2 and but not in found.values() else {}

    return await eventually(there, "two workers")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Supervisors take a worker to hang after seconds instead of a minute, and workers know a signal to hang."""
    (tmp_path / "sitecustomize.py").write_text(STANDS_STILL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(watch, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(watch, "_SILENT_LOOKS_MAX", int(HANGS_AFTER_S / 0.1))
    monkeypatch.setattr(watch, "_SHOWN_S", 0.1)


@pytest.mark.parametrize("how", ["is stopped", "has a loop that stands still"])
async def test_a_worker_that_hangs_is_replaced(
    mongodb_uri: str, database: str, how: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is killed and another one serves in its place; the log says so, and where it stood if it could still tell."""
    async with supervised(mongodb_uri, database) as running:
        before = await both_workers()
        if how == "is stopped":
            await freeze(before[2])
        else:
            os.kill(before[2], signal.SIGUSR2)
        after = await both_workers(but=before[2])
        async with ClickstreamClient(running.address) as client:
            await client.register_session(Session(session_id="s"))

    assert before[1] == after[1]
    said = [record.getMessage() for record in caplog.records]
    assert any(f"worker 2 (process {before[2]}) hangs" in line for line in said)
    assert any("worker 2" in line and "was ended by SIGKILL; it is started again" in line for line in said)
    if how != "is stopped":
        assert "sitecustomize.py" in capfd.readouterr().err


async def test_a_supervisor_that_stood_still_replaces_nobody(mongodb_uri: str, database: str) -> None:
    """Where the supervisor itself had no turn for longer than that, its workers go on."""
    async with supervised(mongodb_uri, database):
        before = await both_workers()
        time.sleep(1.5 * HANGS_AFTER_S)  # noqa: ASYNC251  # it stands still
        assert before == await stands_still(workers)
