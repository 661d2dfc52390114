"""Certificates and tokens, as the settings name them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import grpc

from clickstream_server.config import Settings
from clickstream_server.security.certificates import Certificates, opened_certificates
from clickstream_server.security.token_file import TokenFile, opened_tokens
from clickstream_server.security.watching import watched


@dataclass(frozen=True, slots=True)
class Security:
    """What was read. None: without TLS, or without tokens."""

    certificates: Certificates | None
    tokens: TokenFile | None

    @classmethod
    def opened(cls, settings: Settings) -> Security:
        """Raises StartFailure if a file cannot be used."""
        return cls(opened_certificates(settings), opened_tokens(settings))

    @property
    def certificate_expires_at(self) -> int:
        """In seconds since 1970; 0 without TLS."""
        return 0 if self.certificates is None else self.certificates.expires_at

    def credentials(self) -> grpc.ServerCredentials | None:
        """For one server."""
        return None if self.certificates is None else self.certificates.credentials()

    def watched(
        self, then: Callable[[], None] = lambda: None, *more: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """Inside of the context, take changed files as they come, and do look at `more`; then `then`."""
        looks = [found.look for found in (self.certificates, self.tokens) if found is not None]
        return watched([*looks, *more], then)
