"""Calls at a steady pace, from a process of its own that costs little: else it would slow down what it measures.

It speaks HTTP/2 itself, as far as it takes: gRPC's Python client costs more of a processor for a call than the server
takes to refuse it. Started as a program it prints a `Fired` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from time import perf_counter, process_time
from typing import Any

from benchmarks.workload import items
from clickstream import wire
from clickstream.throttling import Throttle
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream_server.event_loop import run

METHOD = "/clickstream.v1.ClickstreamService/RegisterSession"
CONNECTIONS = 4
_DEADLINE_S = 10
_AFTER_DEADLINE_S = 5.0
_TEMPLATES = 200
_TICK_S = 0.001
_AT_ONCE = 20
_AFTER_REFUSAL_S = 0.5
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEADER_TABLE_SIZE, _CONCURRENT_STREAMS_MAX, _INITIAL_WINDOW = 1, 3, 4
_WINDOW = 65_535
_WINDOW_MAX = 2**31 - 1
_STATUS = b"grpc-status"
OK, REFUSED, HELD_BACK = "OK", "RESOURCE_EXHAUSTED", "HELD_BACK"
"""The third: not sent, since the server refuses many."""


@dataclass(slots=True)
class Fired:
    """Calls by the status that they ended with: each when it began, and how long it took, in seconds.

    `late_s`: by how much they began too late. `used_s`: the processor's time for it, without the start.
    """

    calls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    late_s: list[float] = field(default_factory=list)
    lasted_s: float = 0.0
    used_s: float = 0.0


_Ended = Callable[["Connection", str], None]


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


class Connection(asyncio.Protocol):
    """One connection, and the calls on it. Those beyond what the server lets be open at once wait here.

    `throttle`: decides which calls are sent at all, as in our client; None: all.
    """

    def __init__(self, fired: Fired, began: float, authority: str, throttle: Throttle | None) -> None:
        self._fired = fired
        self._began = began
        self._throttle = throttle
        self._waiting: deque[tuple[float, bytes, _Ended | None]] = deque()
        self._open: dict[int, tuple[float, _Ended | None]] = {}
        self._next = 1
        self._window = _WINDOW
        self._streams_max = 100
        self._received = b""
        self._out: list[bytes] = []
        self._first, self._later = _header_blocks(authority)
        self.failed = ""

    def connection_made(self, transport: Any) -> None:  # an asyncio.Transport; uvloop's are none by their type
        self._transport = transport
        # Without a table of its own headers the server sends them as they are, so that a status can be found in them.
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW, _WINDOW_MAX)
        window = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW_MAX - _WINDOW))
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + window)

    def call(self, request: bytes, ended: _Ended | None = None, *, due: float = 0.0) -> None:
        """Call once there is room. `flush` sends it; `ended` is told of its status. `due`: when it was to begin."""
        began = due or perf_counter()
        if self._throttle is None or self._throttle.admits():
            self._waiting.append((began, b"\0" + struct.pack(">I", len(request)) + request, ended))
        else:
            self._ended(began, HELD_BACK, ended)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._open) and not self.failed

    def flush(self) -> None:
        while self._waiting and len(self._open) < self._streams_max and self._window >= len(self._waiting[0][1]):
            began, content, ended = self._waiting.popleft()
            headers = self._first if self._next == 1 else self._later
            self._out.append(_frame(_HEADERS, _END_HEADERS, self._next, headers))
            self._out.append(_frame(_DATA, _END_STREAM, self._next, content))
            self._open[self._next] = began, ended
            self._next += 2
            self._window -= len(content)
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        at = 0
        while len(data) - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if kind != _DATA:
                self._frame(kind, flags, stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self._received = data[at:]
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        self.failed = self.failed or "the connection was lost"

    def _frame(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, _status(content))
        elif kind == _RST_STREAM:
            self._end(stream, "RESET")
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(content, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", content):
                if name == _CONCURRENT_STREAMS_MAX:
                    self._streams_max = value
            self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, content))
        elif kind == _GOAWAY:
            self.failed = "the server wants no more calls on this connection"

    def _end(self, stream: int, status: str) -> None:
        if stream not in self._open:  # after its status, the server resets a call of which it has not read all
            return
        began, ended = self._open.pop(stream)
        if self._throttle is not None and status == OK:
            self._throttle.accepted()
        elif self._throttle is not None and status == REFUSED:
            self._throttle.refused()
        self._ended(began, status, ended)

    def _ended(self, began: float, status: str, ended: _Ended | None) -> None:
        self._fired.calls.setdefault(status, []).append((began - self._began, perf_counter() - began))
        if ended is not None:
            ended(self, status)


def _header_blocks(authority: str) -> tuple[bytes, bytes]:
    """A call's headers: on a new connection, where the server is to remember them, and later on."""

    def text(content: str) -> bytes:
        return bytes([len(content)]) + content.encode()

    remembered = (
        *(b"\x44" + text(METHOD), b"\x41" + text(authority), b"\x40" + text("te") + text("trailers")),
        *(b"\x5f" + text("application/grpc"), b"\x40" + text("grpc-timeout") + text(f"{_DEADLINE_S}S")),
    )
    # POST and http are in HTTP/2's own table; the newest that was remembered is number 62.
    return b"\x83\x86" + b"".join(remembered), bytes([0x83, 0x86, *range(0xBE + len(remembered) - 1, 0xBD, -1)])


def _status(headers: bytes) -> str:
    at = headers.index(_STATUS) + len(_STATUS)
    code = headers[at + 1 : at + 1 + headers[at]].decode()
    return {"0": OK, "8": REFUSED, "4": "DEADLINE_EXCEEDED", "14": "UNAVAILABLE"}.get(code, code)


class _Requests:
    """Registrations, each with an id of its own."""

    def __init__(self, first: int) -> None:
        self._numbers = count(first)
        self._templates = [
            pb.RegisterSessionRequest(session=wire.session_to_pb(item.session)).SerializeToString()
            for item in items(_TEMPLATES, seed=0)
        ]

    def next(self) -> bytes:
        number = next(self._numbers)
        # Two messages after each other are one, in which what comes later counts.
        own_id = pb.RegisterSessionRequest(session={"session_id": f"overload-{number}"})  # type: ignore[arg-type]
        return self._templates[number % _TEMPLATES] + own_id.SerializeToString()


async def closed(connections: list[Connection], requests: _Requests, callers: int, lasts_s: float) -> None:
    """Each caller calls again once it has its answer; after a refusal it waits for half a second."""
    loop = asyncio.get_running_loop()
    until = perf_counter() + lasts_s

    def again(connection: Connection, status: str) -> None:
        if status != OK:
            loop.call_later(_AFTER_REFUSAL_S, again, connection, OK)
        elif perf_counter() < until:
            connection.call(requests.next(), again)
            connection.flush()

    for place in range(callers):
        again(connections[place % CONNECTIONS], OK)
    await asyncio.sleep(lasts_s + _AFTER_REFUSAL_S)


async def steady(connections: list[Connection], requests: _Requests, rate: float, lasts_s: float) -> list[float]:
    """So many calls a second, whatever becomes of those before; returns by how much each began too late."""
    began = perf_counter()
    late_s = []
    for place in range(int(rate * lasts_s)):
        while (wait_s := began + place / rate - perf_counter()) > 0 or place % _AT_ONCE == 0:
            for connection in connections:
                connection.flush()
            await asyncio.sleep(max(wait_s, _TICK_S) if wait_s > 0 else 0)
            if wait_s <= 0:
                break
        due = began + place / rate
        late_s.append(perf_counter() - due)
        connections[place % CONNECTIONS].call(requests.next(), due=due)
    return late_s


async def fire(
    address: str, first: int, lasts_s: float, *, rate: float = 0, callers: int = 0, hold_back: bool = False
) -> Fired:
    """At a steady rate, or by so many callers. `hold_back`: each connection does as a client of ours would."""
    requests = _Requests(first)
    host, _, port = address.rpartition(":")
    fired = Fired()
    began, used_s = perf_counter(), process_time()
    loop = asyncio.get_running_loop()

    def new() -> Connection:
        return Connection(fired, began, address, Throttle() if hold_back else None)

    made = [await loop.create_connection(new, host, int(port)) for _ in range(CONNECTIONS)]
    connections = [one for _, one in made]
    if callers:
        await closed(connections, requests, callers, lasts_s)
        fired.lasted_s = lasts_s
    else:
        fired.late_s = await steady(connections, requests, rate, lasts_s)
        fired.lasted_s = perf_counter() - began
    give_up_at = perf_counter() + _DEADLINE_S + _AFTER_DEADLINE_S
    while any(connection.busy for connection in connections) and perf_counter() < give_up_at:
        for connection in connections:
            connection.flush()
        await asyncio.sleep(_TICK_S)
    fired.used_s = process_time() - used_s
    for transport, connection in made:
        assert not connection.failed, connection.failed
        assert not connection.busy, "calls were never answered"
        transport.close()
    return fired


def main() -> None:
    address, first, lasts_s, rate, callers, hold_back = sys.argv[1:]
    paced = hold_back == HELD_BACK
    fired = run(fire(address, int(first), float(lasts_s), rate=float(rate), callers=int(callers), hold_back=paced))
    print(json.dumps(asdict(fired)))


if __name__ == "__main__":
    main()
