"""Who owns a data folder, and who waits for it."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from typing import IO

import pytest

from clickstream_server import folder_lock
from harness import eventually


async def test_a_mongod_that_was_seen_for_long_has_time_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However long the mongod of a killed server was waited for, its lock may outlast it for as long as any other."""
    looks = 0
    look = folder_lock._locked

    def counted(lock: IO[str]) -> bool:
        nonlocal looks
        looks += 1
        return look(lock)

    monkeypatch.setattr(folder_lock, "_locked", counted)
    monkeypatch.setattr(folder_lock, "_SAY_EVERY_S", 1.0)
    monkeypatch.setattr(folder_lock, "_NOBODY_SEEN_S_MAX", 1.0)
    monkeypatch.setattr(folder_lock, "_is_mongod", bool)
    seen = tmp_path / "db" / "mongod.lock"
    seen.parent.mkdir()
    seen.write_text("4711")  # a mongod that runs
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        taking = asyncio.create_task(folder_lock.taken(tmp_path))

        async def waits() -> bool:
            return bool(caplog.messages)

        await eventually(waits, "it has waited for longer than for somebody who is not seen")
        seen.write_text("")  # as mongod leaves it when it ends
        looks_before = looks

        async def looks_again() -> bool:
            return taking.done() or looks > looks_before + 2

        await eventually(looks_again, "it looks again")
        assert not taking.done()
    (await taking).close()
