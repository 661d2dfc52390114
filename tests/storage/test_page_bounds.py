"""What a page of a batch or an export may hold of events."""

from __future__ import annotations

import pytest

from clickstream import SessionEvent
from clickstream_server.app import opened_dao
from clickstream_server.config import Settings
from clickstream_server.storage.mongo import events
from clickstream_server.storage.mongo.events import TooManyBytes


@pytest.mark.parametrize("surplus", [0, 1_000])
async def test_the_events_of_a_page_are_bounded_together(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch, surplus: int
) -> None:
    """The bound is that of all sessions of a page, also of those that are asked for their events one by one."""
    monkeypatch.setattr(events, "_SURPLUS_MAX", surplus)
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
        for name in "abcd":
            await dao.push_events(
                [SessionEvent(session_id=name, event_id=f"{n}", object_id="o", meta={"m": "x" * 999}) for n in range(3)]
            )
        few = await dao._events.of_sessions("ab", limit=2, bytes_max=10_000, session=None)
        with pytest.raises(TooManyBytes):
            await dao._events.of_sessions("abcd", limit=2, bytes_max=7_000, session=None)

    assert {"a": (2, 3), "b": (2, 3)} == {name: (len(found.documents), found.count) for name, found in few.items()}
