"""The network between a replica set's members and their clients: a TCP proxy in front of each member.

A member's connections to the others pass through the others' proxies; whose they are is found in /proc. So a member can
lose its whole network, or its fellow members only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path

SLOW_S = 0.05
"""How much later every piece arrives, in each direction, on a slow link."""


class Fault(Enum):
    """What is wrong with a link."""

    CUT = "cut"
    """Connections are reset, and new ones as well."""
    SLOW = "slow"
    HALF_OPEN = "half-open"
    """Nothing arrives any more, and nobody is told. Connections stay so after the fault, as behind a firewall that was
    restarted; new ones are accepted, and dead as well.
    """


class Network:
    """The proxies in front of `members` members. A fault concerns one member, and lasts until `heal`."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        """`pids`: from process to member, as it is now."""
        self._pids = pids
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self._fault: Fault | None = None
        self._member = -1
        self._clients = True
        self.ports: list[int] = []
        self.targets: dict[int, int] = {}
        """The port of each member's process, which may change whenever it starts."""

    async def open(self, members: int) -> None:
        loop = asyncio.get_running_loop()
        for member in range(members):
            server = await loop.create_server(lambda member=member: _Link(self, member).near, "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.abort()

    def disturb(self, fault: Fault, member: int, *, clients: bool = True) -> None:
        """Disturb all links of the member; with `clients` False only those to other members."""
        self._fault, self._member, self._clients = fault, member, clients
        for link in list(self._links):
            if fault is self.fault_of(link):
                link.suffer(fault)

    def heal(self) -> None:
        """From now on links are whole. What was reset, or is half-open, stays so."""
        self._fault = None

    def fault_of(self, link: _Link) -> Fault | None:
        concerned = self._member in {link.source, link.target} and link.source != link.target
        return self._fault if concerned and (self._clients or link.source is not None) else None

    def opened(self, link: _Link, port: int) -> None:
        link.source = _owner(port, self.ports[link.target], self._pids())
        self._links.add(link)

    def closed(self, link: _Link) -> None:
        self._links.discard(link)


def _owner(port: int, to_port: int, pids: Mapping[int, int]) -> int | None:
    """Who connected on the loopback from this port to that one: a member, or (None) a client. See proc(5)."""
    ends = [f"0100007F:{port:04X}", f"0100007F:{to_port:04X}"]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == ends:
            socket = f"socket:[{fields[9]}]"
            return next((member for pid, member in pids.items() if _has_open(pid, socket)), None)
    return None


def _has_open(pid: int, socket: str) -> bool:
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) == socket:
                    return True
    except OSError:
        pass  # it has just ended
    return False


class _Link:
    """One connection: its end near the one who connected, and its far end at the member."""

    def __init__(self, network: Network, target: int) -> None:
        self._network = network
        self.target = target
        self.source: int | None = None
        self.near = _End(self)
        self.far = _End(self)
        self.near.other, self.far.other = self.far, self.near
        self._dead = False
        self._connecting: asyncio.Task[None] | None = None

    def opened(self, port: int) -> None:
        self._network.opened(self, port)
        if fault := self._network.fault_of(self):
            self.suffer(fault)
        if not self._dead:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.far, "127.0.0.1", self._network.targets[self.target])
        except OSError:
            self.abort()

    @property
    def delay_s(self) -> float:
        return SLOW_S if self._network.fault_of(self) is Fault.SLOW else 0.0

    @property
    def dead(self) -> bool:
        return self._dead

    def suffer(self, fault: Fault) -> None:
        if fault is Fault.CUT:
            self.abort()
        elif fault is Fault.HALF_OPEN:
            self._dead = True

    def closed(self) -> None:
        self._network.closed(self)

    def abort(self) -> None:
        self._dead = True
        if self._connecting is not None:
            self._connecting.cancel()
        self.near.abort()
        self.far.abort()
        self._network.closed(self)


class _End(asyncio.Protocol):
    """One end of a link. What it receives goes to the other end, in order."""

    other: _End

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._held: deque[bytes] = deque()
        """What is still to be sent from here; an empty piece ends the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self is self._link.near:
            self._link.opened(transport.get_extra_info("peername")[1])
        else:
            self._send()

    def data_received(self, data: bytes) -> None:
        if not self._link.dead:
            self.other.take(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._link.dead:
            self.other.take(b"")

    def pause_writing(self) -> None:
        self.other.read(on=False)

    def resume_writing(self) -> None:
        self.other.read(on=True)

    def read(self, *, on: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.resume_reading if on else self._transport.pause_reading)()

    def take(self, data: bytes) -> None:
        delay_s = self._link.delay_s
        self._held.append(data)
        if delay_s or len(self._held) > 1:
            asyncio.get_running_loop().call_later(delay_s, self._send, 1)
        else:
            self._send()

    def _send(self, pieces: int = 0) -> None:
        """Send so many of the pieces that are held (0: all)."""
        if self._link.dead or self._transport is None:
            return
        for _ in range(min(pieces, len(self._held)) or len(self._held)):
            if data := self._held.popleft():
                self._transport.write(data)
            else:
                self._transport.close()
                self._link.closed()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
