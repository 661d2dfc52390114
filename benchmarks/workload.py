"""What is written and read: made up from a seed, so that every contestant gets the very same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from clickstream import ImportItem, Money, SearchResultItem, Session, SessionEvent

EVENTS_PER_SESSION = 5
EVENTS_PER_CALL = 10
RESULTS_PER_SESSION = 10
_START = datetime(2026, 1, 1, tzinfo=UTC)
_PURCHASE_EVERY = 10
_CATALOGUE = 100_000
_DAYS = 300


def items(count: int, seed: int, *, events: int = EVENTS_PER_SESSION) -> Iterator[ImportItem]:
    """Sessions with ten results and so many events each; ids are random, as UUIDs are."""
    random = Random(seed)
    for number in range(count):
        created_at = _START + timedelta(days=seed % _DAYS, seconds=number / 100)
        shown = [f"product-{random.randrange(_CATALOGUE)}" for _ in range(RESULTS_PER_SESSION)]
        session = Session(
            session_id=f"{random.getrandbits(128):032x}",
            search_query=f"query {random.randrange(10_000)}",
            search_results=tuple(
                SearchResultItem(object_id=found, rank=1.0 / (1 + n)) for n, found in enumerate(shown)
            ),
            user_id=f"user-{random.randrange(50_000)}",
            created_at=created_at,
        )
        yield ImportItem(
            session,
            [_event(session.session_id, place, random.choice(shown), created_at) for place in range(events)],
        )


def _event(session_id: str, place: int, object_id: str, searched_at: datetime) -> SessionEvent:
    bought = (int(session_id[:8], 16) + place) % _PURCHASE_EVERY == 0
    return SessionEvent(
        event_id=f"e-{place}",
        session_id=session_id,
        object_id=object_id,
        event_type="purchase" if bought else "click",
        created_at=searched_at + timedelta(seconds=1 + place),
        meta={"position": place, "page": 1},
        value=Money(currency_code="EUR", amount="49.90") if bought else None,
    )


def events(count: int, seed: int) -> Iterator[SessionEvent]:
    """The events of as many sessions as it takes."""
    left = count
    for item in items(-(-count // EVENTS_PER_SESSION), seed):
        yield from item.events[:left]  # type: ignore[misc]  # these are all valid
        left -= len(item.events[:left])
