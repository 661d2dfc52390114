"""What the data sets' tests read: sessions that are made up, and known by their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from clickstream import (
    ImportChunk,
    ImportConfig,
    ImportItem,
    Money,
    SearchResultItem,
    Session,
    SessionEvent,
    SyncClickstreamClient,
)

SESSIONS = 257
"""A prime, so that no number of readers divides it."""
IRRELEVANT = frozenset({1, 100, 257})
RELEVANT = [number for number in range(1, SESSIONS + 1) if number not in IRRELEVANT]
RELEASE_ID = "made"
_START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def session(number: int) -> Session:
    """A session with three results."""
    return Session(
        session_id=f"s-{number}",
        search_query=f"query {number}",
        search_results=tuple(SearchResultItem(object_id=f"p-{number}-{place}") for place in range(3)),
        created_at=_START + timedelta(seconds=number),
        is_irrelevant=number in IRRELEVANT,
    )


def events(number: int) -> list[SessionEvent]:
    """The second result is clicked, and every tenth person buys it."""
    about = {"session_id": f"s-{number}", "object_id": f"p-{number}-1", "created_at": _START + timedelta(hours=1)}
    price = Money(currency_code="EUR", amount="0.10")
    found = [SessionEvent(event_id="c", **about)]
    if number % 10 == 0:
        found.append(SessionEvent(event_id="p", event_type="purchase", value=price, **about))
    return found


def large_events(first: int, end: int) -> list[SessionEvent]:
    """Events of a session, later than those that it has, of 60 KB each."""
    about = {"session_id": "s-20", "event_type": "view", "meta": {"text": "x" * 60_000}}
    return [
        SessionEvent(event_id=f"v{number}", created_at="2026-01-06T09:00:00Z", **about) for number in range(first, end)
    ]


def fill(client: SyncClickstreamClient, numbers: Iterable[int]) -> None:
    """Import these sessions, so that they get numbers in this order."""
    items = [ImportItem(session(number), events(number)) for number in numbers]
    for _ in client.import_sessions(ImportConfig(import_id=uuid4().hex), [ImportChunk(1, items)]):
        pass
