"""Servers that ask for tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from clickstream import ClickstreamClient
from clickstream_server.security.roles import Role
from clickstream_server.security.token_file import change
from clickstream_server.security.tokens import added, key_id_of, new_token, without
from harness import running


@dataclass
class Guarded:
    """A server of this process that asks for tokens, and the file of those."""

    address: str
    file: Path
    page: str = ""
    tokens: dict[str, str] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def started(cls, mongodb_uri: str, database: str, file: Path, **settings: Any) -> AsyncIterator[Self]:
        """With one token for each role, which has the role's name."""
        found = cls("", file)
        for role in Role:
            found.add(role, role)
        async with running(mongodb_uri, database, tokens_file=file, **settings) as server:
            found.address = server.address
            found.page = server.page
            yield found

    def add(self, name: str, *roles: Role, expires_days: float | None = None) -> str:
        """A new token, in the file; it is returned, and kept under the name."""
        token, line = new_token(name, roles, expires_days)
        change(self.file, lambda content: added(content, line))
        self.tokens[name] = token
        return token

    def revoke(self, token: str) -> None:
        change(self.file, lambda content: without(content, [key_id_of(token) or ""]))

    def client(self, name: str, **settings: Any) -> ClickstreamClient:
        """A client with the token of this name."""
        return ClickstreamClient(self.address, token=self.tokens[name], **settings)
