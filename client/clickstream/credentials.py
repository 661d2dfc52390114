"""How a client shows who it is, and knows the server: a token, and TLS."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from clickstream.errors import MissingCredentials
from clickstream.pem import PathLike, check_authorities, check_pair

Token = str | Callable[[], str]
"""A token, or what returns the one that counts now: it is asked at every call, on the event loop."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS with files in PEM form.

    `ca`: who is trusted to vouch for the server; None: the public authorities that gRPC knows. `client_cert` and
    `client_key`: what a server with mutual TLS asks for. They are read once, when the client connects for the first
    time; after a renewal make a new client.
    """

    ca: PathLike | None = None
    client_cert: PathLike | None = None
    client_key: PathLike | None = None

    def check(self) -> None:
        """Raise ValueError or OSError if the files cannot be used."""
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client_cert and client_key belong together")
        if self.ca is not None:
            check_authorities(self.ca)
        if self.client_cert is not None and self.client_key is not None:
            check_pair(self.client_cert, self.client_key)

    def credentials(self) -> grpc.ChannelCredentials:
        contents = [
            None if file is None else Path(file).read_bytes() for file in (self.ca, self.client_key, self.client_cert)
        ]
        return grpc.ssl_channel_credentials(*contents)


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token that stands in a file, which is read at every call: so it can be replaced while the client runs.

    While the file is empty, the token that it had counts: who writes over a file empties it first.
    """

    path: PathLike
    _had: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __call__(self) -> str:
        try:
            token = Path(self.path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise MissingCredentials(f"the token in {os.fspath(self.path)} cannot be read: {why}") from error
        if not token and self._had:
            return self._had[0]
        self._had[:] = [token]
        return token

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenFile, (self.path,)  # without any token
