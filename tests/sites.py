"""Servers with a page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clickstream import ClickstreamClient
from clickstream_server import app
from clickstream_server.config import Settings


@dataclass(frozen=True)
class Site:
    """A server with a page: a client to fill it, and the page's address."""

    client: ClickstreamClient
    url: str


@asynccontextmanager
async def opened_site(mongodb_uri: str, database: str) -> AsyncIterator[Site]:
    """A server of this process with a page, both on free ports."""
    settings = Settings(
        listen="127.0.0.1:0",
        ui_listen="127.0.0.1:0",
        mongodb_uri=mongodb_uri,
        mongodb_database=database,
        drain_s=1.0,
    )
    async with app.running(settings) as running, ClickstreamClient(running.address) as client:
        yield Site(client, running.page)
