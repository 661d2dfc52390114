"""The data folder of an embedded MongoDB has one owner at a time: a server, and the mongod that it started."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path
from time import monotonic
from typing import IO

from clickstream_server.failures import StartFailure

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.02
_SAY_EVERY_S = 10.0
_NOBODY_SEEN_S_MAX = 30.0
"""So long a lock is waited for that nobody holds who can be seen from here."""


async def taken(data_dir: Path) -> IO[str]:
    """Own the data folder until the returned file is closed by everybody who has it.

    A mongod whose server was killed holds it until it has stopped: that is waited for, however long it takes.
    Raises StartFailure if a server has it, or somebody whom this machine does not show: one in another container, or
    on another machine.
    """
    path = data_dir / "lock"
    lock = path.open("a+")
    try:
        await _wait_for(lock, data_dir, path)
    except BaseException:
        lock.close()
        raise
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


async def _wait_for(lock: IO[str], data_dir: Path, path: Path) -> None:
    seen_at = said_at = began = monotonic()
    while not _locked(lock):
        if _runs(server := _read(path)):
            ours = " (in another container?)" if server == str(os.getpid()) else ""
            raise StartFailure(_in_use(data_dir, f"process {server}{ours}"))
        now = monotonic()
        if _is_mongod(mongod := _read(data_dir / "db" / "mongod.lock")):
            seen_at = now
            if now - said_at >= _SAY_EVERY_S:
                said_at = now
                _log.warning(
                    "the mongod (process %s) of a server that was killed has the data folder %s still, after %.0f s; "
                    "it is waited for; see %s",
                    *(mongod, data_dir, now - began, data_dir / "mongod.log"),
                )
        elif now - seen_at >= _NOBODY_SEEN_S_MAX:
            raise StartFailure(_in_use(data_dir, "a process that cannot be seen from here (in another container?)"))
        await asyncio.sleep(_LOOK_AGAIN_S)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(data_dir: Path, owner: str) -> str:
    return (
        f"the data folder {data_dir} is in use by {owner}: stop that one, or set CLICKSTREAM_DATA_DIR to another folder"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _is_mongod(pid: str) -> bool:
    """Its number alone may be that of anything, if it runs in another container."""
    name = _read(Path("/proc") / pid / "comm") if pid.isdigit() else ""
    return _runs(pid) and (not name or name.startswith("mongod"))


def _runs(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
