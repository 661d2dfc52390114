"""Whether files of certificates and keys can be used: gRPC, which gets them, does not say what is wrong with them."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

_STEPS_MAX = 10
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""
PathLike = str | os.PathLike[str]


class PemFault(ValueError):
    """The files cannot be used; the text says which and why."""


def check_pair(cert: PathLike, key: PathLike) -> None:
    """Raise PemFault unless these are a certificate (with those between it and its authority) and its key; OSError."""
    Path(cert).read_bytes()  # OpenSSL does not say which file is missing
    if b"ENCRYPTED" in Path(key).read_bytes():
        raise PemFault(f"the key in {os.fspath(key)} is encrypted: give one without a password, readable by you only")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise PemFault(
                f"the key in {os.fspath(key)} does not belong to the certificate in {os.fspath(cert)}"
            ) from error
        why = f" ({error.reason})" if error.reason else ""
        raise PemFault(
            f"{os.fspath(cert)} and {os.fspath(key)} are not a certificate and its key in PEM form{why}"
        ) from error


def check_authorities(ca: PathLike) -> None:
    """Raise PemFault unless this file holds certificates of authorities; OSError if it cannot be read."""
    content = Path(ca).read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii", errors="replace"))
    except (ssl.SSLError, ValueError) as error:
        raise PemFault(f"{os.fspath(ca)} holds no certificates in PEM form") from error


def verdict(cert: PathLike, key: PathLike) -> str:
    """What a client that trusts this certificate itself says of it, in OpenSSL's words; "" if nothing.

    Raises as `check_pair` does.
    """
    try:
        _met(cert, key, ssl.VERIFY_X509_PARTIAL_CHAIN)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return ""


def expires_at(cert: PathLike, key: PathLike) -> int:
    """When the certificate expires or has expired, in seconds since 1970. Raises as `check_pair` does."""
    shown = _met(cert, key, ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME).getpeercert()
    assert shown is not None
    return int(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _met(cert: PathLike, key: PathLike, verify_flags: int) -> ssl.SSLObject:
    """A client that trusts this certificate itself, after its handshake, in memory, with a server that shows it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key, password=_no_password)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= verify_flags
    client.load_verify_locations(cert)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there)
    answering = server.wrap_bio(there, back, server_side=True)
    for _ in range(_STEPS_MAX):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if side is asking:
                return asking
    raise ssl.SSLError("the handshake does not end")


def _no_password() -> str:
    raise PemFault("the key is encrypted: give one without a password")
