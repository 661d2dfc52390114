"""The address that the server takes, and who may be let near it without TLS and tokens."""

from __future__ import annotations

import errno
import logging
import socket

import grpc
import grpc.aio

from clickstream.access import is_loopback
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure

LISTEN, HEALTH_LISTEN = "CLICKSTREAM_LISTEN", "CLICKSTREAM_HEALTH_LISTEN"
"""The settings of the addresses that gRPC listens on."""
_log = logging.getLogger(__name__)
_OPTIONS = [
    ("grpc.max_connection_age_ms", 300_000),  # else clients that balance never see new servers
    ("grpc.max_connection_age_grace_ms", 4_000_000),  # more than the hour after which our clients leave by themselves
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # How often clients ping is not judged: gRPC keeps a complaint for each ping, and 8 MiB of them on one connection
    # took 1 GB, and so long that nobody else got a connection. Unjudged they take 1 MiB.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", 1000),
    # Else the window of every stream grows to megabytes, which gRPC fills before the call is looked at. A message that
    # is being read gets as much window as it needs all the same.
    ("grpc.http2.bdp_probe", 0),
    # On by default, it counts calls that are over but not yet cleared away, and so refuses clients that keep the limit.
    ("grpc.http.overload_protection", 0),
    # None but what is sent as it is: gRPC looks at its bound for messages before it unpacks one, and again behind that,
    # so that 260 KB cost 270 MiB, of strangers to health, too. Who packs all the same is answered UNIMPLEMENTED.
    ("grpc.compression_enabled_algorithms_bitset", 1),
]


def server_options(*, message_bytes_max: int, share_port: bool = False) -> list[tuple[str, int]]:
    """The options for gRPC's server. `share_port`: other processes of this service listen on the same port."""
    return [
        *_OPTIONS,
        # Shared by default: a forgotten server would silently take half of the traffic.
        ("grpc.so_reuseport", int(share_port)),
        # More than a message may have, so that what is too large is refused with a reason.
        ("grpc.max_receive_message_length", 2 * message_bytes_max),
        ("grpc.max_send_message_length", 2 * message_bytes_max),
    ]


def refuse_exposure(settings: Settings) -> None:
    """Raise StartFailure if strangers could reach the server; warn if that was asked for. See `exposure`."""
    if found := exposure(settings):
        _log.warning("insecure, as asked for: %s", found)


def exposure(settings: Settings) -> str:
    """What is open to strangers if the server listens where it is to, in words; "" if nothing is.

    Raises StartFailure if anything is and `insecure` was not given. Without TLS, tokens could be read on their way;
    with TLS alone, anyone who can reach the address could call.
    """
    if is_loopback(settings.listen.rpartition(":")[0]):
        return ""
    missing = []
    if settings.tls_cert is None:
        missing.append("without TLS all of it can be read and changed on its way, tokens too (CLICKSTREAM_TLS_CERT)")
    if settings.tokens_file is None and settings.tls_client_ca is None:
        missing.append(
            "without tokens anyone may do anything (CLICKSTREAM_TOKENS_FILE; CLICKSTREAM_TLS_CLIENT_CA for mutual TLS)"
        )
    if not missing:
        return ""
    found = f"other machines can reach {settings.listen}: {', and '.join(missing)}"
    if not settings.insecure:
        raise StartFailure(
            f"CLICKSTREAM_LISTEN (--listen): {found}. Set what is missing, listen on 127.0.0.1, or give --insecure if "
            "something else protects it, such as a mesh"
        )
    return found


def bind(
    server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None, setting: str = LISTEN
) -> int:
    """Take the address, which is that of the setting; return its port. `credentials` None: without TLS.

    Raises StartFailure.
    """
    try:
        port = server.add_insecure_port(listen) if credentials is None else server.add_secure_port(listen, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise cannot_listen(listen, _why_not_bound(listen), setting)
    return port


def _why_not_bound(listen: str) -> str:
    """Why gRPC could not take the address, which it does not say."""
    host, _, port = listen.rpartition(":")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return why_not(error)
    return "gRPC cannot have it"


def cannot_listen(listen: str, why: str, setting: str = LISTEN) -> StartFailure:
    """What is said where the setting's address cannot be had."""
    return StartFailure(f"cannot listen on {listen}: {why} ({setting} sets another)")


def why_not(error: OSError) -> str:
    """Why an address could not be had."""
    if isinstance(error, socket.gaierror):
        return "there is no such address"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "this user may not take the port (those below 1024 are the system's)"
    # asyncio says that of all addresses of a name at once, from Python 3.13 on: without a number.
    if error.errno in {errno.EADDRNOTAVAIL, None}:
        return "the address is not this machine's"
    return str(error.strerror or error)


def local_address(listen: str, port: int) -> str:
    """Where clients on this machine find what listens there."""
    host = listen.rpartition(":")[0]
    return f"{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}"
