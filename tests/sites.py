"""Servers with a page, and what it is to show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clickstream import ClickstreamClient, Money, SearchResultItem, Session, SessionEvent
from harness import running

LAMPS = tuple(SearchResultItem(object_id=f"lamp-{place}") for place in (3, 7, 9))


@dataclass(frozen=True)
class Site:
    """A server with a page: a client to fill it, and the page's address."""

    client: ClickstreamClient
    url: str


@asynccontextmanager
async def opened_site(mongodb_uri: str, database: str) -> AsyncIterator[Site]:
    """A server of this process with a page, both on free ports."""
    site = running(mongodb_uri, database, ui_listen="127.0.0.1:0")
    async with site as found, ClickstreamClient(found.address) as client:
        yield Site(client, found.page)


async def register_with_clicks(client: ClickstreamClient) -> str:
    """One session: its second result clicked first and third and bought, its third clicked second. Return its batch."""
    done = await client.register_session(Session(session_id="s-1", search_query="desk lamp", search_results=LAMPS))
    acts = [
        ("click", "lamp-7", None),
        ("click", "lamp-9", None),
        ("click", "lamp-7", None),
        ("purchase", "lamp-7", "49.90"),
        ("click", "shade-1", None),
        ("scroll", "", None),
    ]
    events = [
        SessionEvent(
            event_id=f"e-{number}",
            session_id="s-1",
            object_id=object_id,
            event_type=event_type,
            value=Money(currency_code="EUR", amount=amount) if amount else None,
            created_at=f"2025-03-03T09:00:{number:02}Z",
        )
        for number, (event_type, object_id, amount) in enumerate(acts)
    ]
    await client.push_events(events)
    return done.session.batch_id
