"""One port for several processes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep

from clickstream_server.failures import StartFailure
from clickstream_server.listening import LISTEN, cannot_listen, why_not

_DYING_S_MAX = 2.0
"""The workers of a supervisor that was killed have the port for a moment more."""
_LOOK_AGAIN_S = 0.05


@contextmanager
def reserved(listen: str, setting: str = LISTEN) -> Iterator[int]:
    """Keep the port for processes of ours that share it (SO_REUSEPORT), and from all others; nothing listens yet.

    `setting`: whose address this is. Yields the port: a free one for port 0. Raises StartFailure.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartFailure(
            "CLICKSTREAM_WORKERS (--workers): on this system processes cannot share a port (SO_REUSEPORT): "
            "leave it at 1, or start several servers on ports of their own"
        )
    give_up_at = monotonic() + _DYING_S_MAX
    with ExitStack() as stack:
        while True:
            try:
                port = _take_all(listen, stack)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or monotonic() > give_up_at:
                    raise cannot_listen(listen, why_not(error), setting) from error
            stack.close()
            sleep(_LOOK_AGAIN_S)
        yield port


def _take_all(listen: str, stack: ExitStack) -> int:
    """Bind all addresses that the name has here, which is one unless it is a host's; return the port."""
    host, _, port_text = listen.rpartition(":")
    port, taken = int(port_text), 0
    for found in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM):
        holder = stack.enter_context(socket.socket(*found[:3]))
        taken = _take(holder, (found[4][0], taken or port, *found[4][2:])) or taken
    if taken == 0:
        raise OSError(errno.EADDRNOTAVAIL, "the address is not this machine's")
    return taken


def with_port(listen: str, port: int) -> str:
    """The address with this port."""
    return f"{listen.rpartition(':')[0]}:{port}"


def _take(holder: socket.socket, address: tuple[object, ...]) -> int:
    """Bind the socket to the address; return the port. 0: a name's other addresses may be this machine's."""
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was used a minute ago may be had
    if holder.family == socket.AF_INET6:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        holder.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return 0
        raise
    # Only now, so that a port that another program shares in the same way counts as taken.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port: int = holder.getsockname()[1]
    return port
