"""Addresses that cannot be had."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest

from clickstream_server.failures import StartFailure
from clickstream_server.listening import bind
from clickstream_server.observe.endpoint import metrics_served
from clickstream_server.workers.port import reserved

NOBODY = 65534
FIRST_FREE = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@contextmanager
def nobody() -> Iterator[None]:
    """With no more rights than any user."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


async def refused(listen: str) -> set[str]:
    """Why a server cannot listen there, metrics are not shown there, and workers cannot share it."""
    found = set()
    with pytest.raises(StartFailure) as raised:
        async with metrics_served(listen, list):
            pass
    found.add(str(raised.value).removeprefix("cannot show metrics on ").removesuffix(" (CLICKSTREAM_METRICS_LISTEN)"))
    with pytest.raises(StartFailure) as raised, reserved(listen):
        pass
    found.add(_said(raised.value))
    with pytest.raises(StartFailure) as raised:
        bind(grpc.aio.server(), listen, None)
    found.add(_said(raised.value))
    return found


def _said(failure: StartFailure) -> str:
    return str(failure).removeprefix("cannot listen on ").removesuffix(" (CLICKSTREAM_LISTEN sets another)")


@pytest.mark.skipif(
    not FIRST_FREE.exists() or int(FIRST_FREE.read_text()) < 2, reason="any user may take any port on this machine"
)
async def test_a_port_that_is_the_systems() -> None:
    """A port that only root may take is said to be one."""
    with nobody():
        found = await refused("127.0.0.1:1")

    assert {"127.0.0.1:1: this user may not take the port (those below 1024 are the system's)"} == found


async def test_other_addresses_that_cannot_be_had() -> None:
    """A port in use, an address of another machine and a name that nobody has are said to be that."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert {f"{listen}: the port is in use"} == await refused(listen)
    assert {"203.0.113.1:0: the address is not this machine's"} == await refused("203.0.113.1:0")
    assert {"nowhere.invalid:0: there is no such address"} == await refused("nowhere.invalid:0")
