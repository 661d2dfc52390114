"""One port for several processes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from clickstream_server.failures import StartFailure


@contextmanager
def reserved(listen: str) -> Iterator[int]:
    """Keep the port for processes of ours that share it (SO_REUSEPORT), and from all others; nothing listens yet.

    Yields the port: a free one for port 0. Raises StartFailure.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartFailure(
            "CLICKSTREAM_WORKERS (--workers): on this system processes cannot share a port (SO_REUSEPORT): "
            "leave it at 1, or start several servers on ports of their own"
        )
    host, _, port_text = listen.rpartition(":")
    port = int(port_text)
    with ExitStack() as stack:
        try:
            for found in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM):
                holder = stack.enter_context(socket.socket(*found[:3]))
                port = _take(holder, (found[4][0], port, *found[4][2:])) or port
        except OSError as error:
            raise StartFailure(f"cannot listen on {listen}: {_reason(error)}") from error
        if port == 0:
            raise StartFailure(f"cannot listen on {listen}: the address is not this machine's")
        yield port


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


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "there is no such address"
    return "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
