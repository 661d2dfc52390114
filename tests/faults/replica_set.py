"""A replica set of three real mongods on this machine, whose members and network can be disturbed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults.network import Network
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from clickstream_server.embedded import _with_libcurl, find_mongod
from harness import eventually, free_port, freeze

MEMBERS = 3
NAME = "faults"
_PATIENCE_S = 120.0
_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    # MongoDB's defaults are 10 s, 2 s and 10 s: tests would wait for them all the time.
    "electionTimeoutMillis": 2000,
    "heartbeatIntervalMillis": 500,
    "heartbeatTimeoutSecs": 2,
}
_OPTIONS = (
    *("--replSet", NAME, "--bind_ip", "127.0.0.1", "--nounixsocket"),
    *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "256"),
    *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
)


class Member:
    """One mongod. It takes another port at every start, which only its proxy needs to know."""

    def __init__(self, number: int, folder: Path, network: Network) -> None:
        self.number = number
        self._folder = folder
        self._network = network
        self._process: asyncio.subprocess.Process | None = None
        self._frozen = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> str:
        """What the replica set and its clients know: the proxy's address."""
        return f"127.0.0.1:{self._network.ports[self.number]}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        (self._folder / "db").mkdir(parents=True, exist_ok=True)
        port = free_port()
        log = self._folder / "mongod.log"
        self._process = await asyncio.create_subprocess_exec(
            str(find_mongod("")),
            *("--dbpath", str(self._folder / "db"), "--port", str(port)),
            *("--logpath", str(log), "--logappend", *_OPTIONS),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env=_with_libcurl(self._folder),
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self._network.targets[self.number] = port
        await eventually(self._listens, f"member {self.number} takes connections; see {log}", _PATIENCE_S)

    async def _listens(self) -> bool:
        assert self.runs
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._network.targets[self.number])
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """What it says past the proxy; nothing if it does not answer."""
        if self._frozen or not self.runs:
            return {}
        uri = f"mongodb://127.0.0.1:{self._network.targets[self.number]}/?directConnection=true"
        async with AsyncMongoClient[dict[str, Any]](uri, timeoutMS=10_000) as client:
            with suppress(PyMongoError):
                return await client.admin.command(command)
        return {}

    async def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        if self.runs:
            self._process.kill()
        await self._process.wait()

    async def freeze(self) -> None:
        self._frozen = True
        await freeze(self.pid)

    def thaw(self) -> None:
        self._frozen = False
        os.kill(self.pid, signal.SIGCONT)


class ReplicaSet:
    """Three members; `network` stands between them, and between them and all clients."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.network = Network(lambda: {member.pid: member.number for member in self.members if member.runs})
        self.members = [Member(number, folder / str(number), self.network) for number in range(MEMBERS)]

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={NAME}"

    async def start(self) -> None:
        await self.network.open(MEMBERS)
        await asyncio.gather(*(member.start() for member in self.members))
        members = [{"_id": member.number, "host": member.address} for member in self.members]
        begun = {"replSetInitiate": {"_id": NAME, "members": members, "settings": _SETTINGS}}
        await eventually(lambda: self.members[0].ask(begun), "the replica set is initiated")
        await self.whole()

    async def stop(self) -> None:
        """End everything, whatever state it is in."""
        for member in self.members:
            with suppress(AssertionError):  # it never ran
                await member.kill()
        await self.network.close()
        shutil.rmtree(self._folder)

    async def mend(self) -> None:
        """End every disturbance, and wait until all members are there."""
        self.network.heal()
        for member in self.members:
            if not member.runs:
                await member.start()
            member.thaw()
        await self.whole()

    async def whole(self) -> None:
        """Wait until there is a primary and everyone else follows it."""
        await eventually(self._is_whole, "the replica set is whole", _PATIENCE_S)

    async def _is_whole(self) -> bool:
        told = await asyncio.gather(*(member.ask({"replSetGetStatus": 1}) for member in self.members))
        wanted = ["PRIMARY", *["SECONDARY"] * (MEMBERS - 1)]
        views = [[found["stateStr"] for found in one.get("members", ())] for one in told]
        return all(sorted(view) == wanted for view in views) and all(view == views[0] for view in views)

    async def primary(self) -> Member:
        """The member that a majority takes for the primary."""
        found: Member = await eventually(self._primary, "there is a primary", _PATIENCE_S)
        return found

    async def _primary(self) -> Member | None:
        by_term = dict(await self._told_primaries())
        return self.members[by_term[max(by_term)]] if by_term else None

    async def _told_primaries(self) -> list[tuple[int, int]]:
        """The term and the number of every member that takes itself for the primary."""
        told = await asyncio.gather(*(member.ask({"replSetGetStatus": 1}) for member in self.members))
        return [(one["term"], number) for number, one in enumerate(told) if one and one["myState"] == 1]

    async def another_than(self, member: Member) -> Member:
        """Wait until there is another primary."""

        async def found() -> Member | None:
            primary = await self._primary()
            return primary if primary is not member else None

        other: Member = await eventually(found, "there is another primary", _PATIENCE_S)
        return other

    async def term(self) -> int:
        """How many elections there were."""
        told = await asyncio.gather(*(member.ask({"replSetGetStatus": 1}) for member in self.members))
        return max(one.get("term", 0) for one in told)


def _die_with_parent() -> None:
    """It ends with the tests, also if those are killed, and also if it is frozen; see prctl(2)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
