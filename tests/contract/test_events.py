"""Events through the interface, on every backend: stored once each, counted honestly, read in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from clickstream import (
    ClickstreamDao,
    InvalidField,
    Money,
    PushResult,
    Session,
    SessionEvent,
    SessionWithEvents,
    WriteOutcome,
)
from clickstream_server.storage.mongo.dao import MongoClickstreamDao

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RICH = SessionEvent(
    event_id="e",
    session_id="s",
    object_id="o",
    event_type="purchase",
    created_at=NOON,
    meta={"position": 3, "path": ["a", {"b": 1}]},
    value=Money(currency_code="EUR", amount=Decimal("12.50")),
)
NO_ID = RICH.model_copy(update={"event_id": ""})


async def stored(dao: ClickstreamDao, session_id: str = "s") -> SessionWithEvents:
    """The session, registered if need be, with all of its events."""
    await dao.register_session(Session(session_id=session_id))
    found = await dao.get_session(session_id, events_limit=1000)
    assert found is not None
    return found


async def test_a_new_event_is_stored(dao: ClickstreamDao) -> None:
    """An event reads back as it was pushed."""
    assert PushResult(inserted=1) == await dao.push_events([RICH])
    assert (RICH,) == (await stored(dao)).events


async def test_events_may_come_before_their_session(dao: ClickstreamDao) -> None:
    """Events of a session that is not there yet are with it once it is registered."""
    await dao.push_events([RICH])
    await dao.register_session(Session(session_id="s"))

    assert 1 == (await stored(dao)).event_count


async def test_events_are_read_by_time_then_id(dao: ClickstreamDao) -> None:
    """Events come back by created_at and, at the same time, by the bytes of their ids, however they were pushed."""
    ids = ["b", "a", "Z", "ä", "a\U0001f600", "a\uffee", "10", "9"]
    late = [SessionEvent(event_id=event_id, session_id="s", object_id="o", created_at=NOON) for event_id in ids]
    early = SessionEvent(event_id="z", session_id="s", object_id="o", created_at=NOON - timedelta(microseconds=1))
    await dao.push_events([*late, early])

    assert ["z", *sorted(ids, key=str.encode)] == [event.event_id for event in (await stored(dao)).events]


async def test_an_event_belongs_to_its_session_only(dao: ClickstreamDao) -> None:
    """The same event id in two sessions is two events."""
    other = RICH.model_copy(update={"session_id": "t"})

    assert PushResult(inserted=2) == await dao.push_events([RICH, other])
    assert ((RICH,), (other,)) == ((await stored(dao)).events, (await stored(dao, "t")).events)


async def test_the_server_sets_created_at(dao: ClickstreamDao) -> None:
    """An event with an id and without created_at has the moment of its arrival."""
    await dao.push_events([SessionEvent(event_id="e", session_id="s", object_id="o")])
    (event,) = (await stored(dao)).events

    assert event.created_at is not None
    assert abs(datetime.now(UTC) - event.created_at) < timedelta(minutes=1)


async def test_an_empty_type_is_a_click(dao: ClickstreamDao) -> None:
    """An event without a type is a click, and the same event sent with that word is a duplicate."""
    await dao.push_events([SessionEvent(event_id="e", session_id="s", object_id="o", event_type="", created_at=NOON)])
    as_click = SessionEvent(event_id="e", session_id="s", object_id="o", event_type="click", created_at=NOON)

    assert (as_click,) == (await stored(dao)).events
    assert PushResult(duplicates=1) == await dao.push_events([as_click])


# --- once each ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [RICH, NO_ID, SessionEvent(event_id="e", session_id="s", object_id="o")],
    ids=["rich", "without an id", "without a time"],
)
async def test_a_retry_is_a_duplicate(dao: ClickstreamDao, event: SessionEvent) -> None:
    """An event sent again is a duplicate, and so is the stored one sent back as it reads."""
    assert PushResult(inserted=1) == await dao.push_events([event])
    as_it_reads = (await stored(dao)).events

    assert PushResult(duplicates=1) == await dao.push_events([event])
    assert PushResult(duplicates=1) == await dao.push_events(as_it_reads)
    assert as_it_reads == (await stored(dao)).events


async def test_key_order_and_whole_floats_are_not_content(dao: ClickstreamDao) -> None:
    """The same meta with its keys in another order and 3.0 for 3 is a duplicate."""
    await dao.push_events([RICH])
    again = RICH.model_copy(update={"meta": {"path": ["a", {"b": 1.0}], "position": 3.0}})

    assert PushResult(duplicates=1) == await dao.push_events([SessionEvent.model_validate(again.model_dump())])


async def test_every_field_is_content(dao: ClickstreamDao) -> None:
    """Any difference under a known id is a CONFLICT, and what is stored stays."""
    await dao.push_events([RICH])
    changes: list[dict[str, object]] = [
        {"object_id": "p"},
        {"object_id": ""},
        {"event_type": "click"},
        {"created_at": NOON + timedelta(microseconds=1)},
        {"created_at": None},
        {"meta": {}},
        {"meta": {"position": "3", "path": ["a", {"b": 1}]}},
        {"value": None},
        {"value": {"currency_code": "USD", "amount": "12.50"}},
        {"value": {"currency_code": "EUR", "amount": "12.5"}},
    ]
    others = [SessionEvent.model_validate(RICH.model_dump() | change) for change in changes]
    result = await dao.push_events(others)

    assert list(range(len(changes))) == [failure.index for failure in result.failures]
    assert {("e", WriteOutcome.CONFLICT, "CONTENT_CONFLICT", False)} == {
        (failure.id, failure.outcome, failure.reason, failure.retryable) for failure in result.failures
    }
    assert len(changes) == result.conflicts
    assert (RICH,) == (await stored(dao)).events


async def test_a_derived_id_follows_the_content(dao: ClickstreamDao) -> None:
    """Events without ids get different ones for different content, and keep them when sent again."""
    later = NO_ID.model_copy(update={"created_at": NOON + timedelta(seconds=1)})
    assert PushResult(inserted=2) == await dao.push_events([NO_ID, later])
    ids = [event.event_id for event in (await stored(dao)).events]
    assert PushResult(duplicates=2) == await dao.push_events([later, NO_ID])

    assert all(ids)
    assert 2 == len(set(ids))
    assert ids == [event.event_id for event in (await stored(dao)).events]


async def test_the_derived_id_is_stable_across_releases(dao: ClickstreamDao) -> None:
    """The id derived from this very content is written down here: to change it would double events on a retry."""
    await dao.push_events([NO_ID])

    assert ["0f308c748a3d1acd4ac85fdc05dd4e4b"] == [event.event_id for event in (await stored(dao)).events]


async def test_a_duplicate_within_one_call(dao: ClickstreamDao) -> None:
    """The same event twice in one call is stored once and counted as one duplicate."""
    assert PushResult(inserted=1, duplicates=1) == await dao.push_events([RICH, RICH])
    assert (RICH,) == (await stored(dao)).events


async def test_a_conflict_within_one_call(dao: ClickstreamDao) -> None:
    """Two events of one id and other content in one call: the first is stored, the second is a conflict."""
    result = await dao.push_events([RICH, RICH.model_copy(update={"object_id": "p"})])

    assert (1, 0, 1, 0) == (result.inserted, result.duplicates, result.conflicts, result.rejected)
    assert [1] == [failure.index for failure in result.failures]
    assert (RICH,) == (await stored(dao)).events


# --- one bad event --------------------------------------------------------------------------------------------------


async def test_one_bad_event_does_not_sink_the_rest(dao: ClickstreamDao) -> None:
    """Of a hundred good events and a bad one the hundred are stored, and the bad one is named with its place."""
    good = [SessionEvent(event_id=f"e{place}", session_id="s", object_id="o") for place in range(100)]
    bad = SessionEvent(event_id="bad", session_id="s", object_id="")
    result = await dao.push_events([*good[:40], bad, *good[40:]])
    (failure,) = result.failures

    assert (100, 0, 0, 1) == (result.inserted, result.duplicates, result.conflicts, result.rejected)
    assert (40, "bad", WriteOutcome.REJECTED, "INVALID_FIELD", False) == (
        failure.index,
        failure.id,
        failure.outcome,
        failure.reason,
        failure.retryable,
    )
    assert failure.message.startswith("object_id: ")
    assert 100 == (await stored(dao)).event_count


async def test_the_counts_add_up(dao: ClickstreamDao) -> None:
    """Inserted, duplicates, conflicts and rejected count every event once; failures stand in the request's order."""
    await dao.push_events([RICH])
    new = RICH.model_copy(update={"event_id": "new"})
    conflict = RICH.model_copy(update={"object_id": "p"})
    bad = RICH.model_copy(update={"session_id": " "})
    result = await dao.push_events([bad, conflict, RICH, new, conflict, new, bad])

    assert (1, 2, 2, 2) == (result.inserted, result.duplicates, result.conflicts, result.rejected)
    assert [(0, "REJECTED"), (1, "CONFLICT"), (4, "CONFLICT"), (6, "REJECTED")] == [
        (failure.index, failure.outcome) for failure in result.failures
    ]


async def test_an_unreadable_event_may_stand_as_its_error(dao: ClickstreamDao) -> None:
    """A storage counts an event that is its own error as REJECTED at its place; a client, unable to send it, raises."""
    events = [InvalidField.at("meta", "is not JSON"), RICH]
    if not isinstance(dao, MongoClickstreamDao):  # a client
        with pytest.raises(InvalidField, match="meta: is not JSON"):
            await dao.push_events(events)
        return

    result = await dao.push_events(events)

    assert (1, 1) == (result.inserted, result.rejected)
    assert [(0, WriteOutcome.REJECTED, "meta: is not JSON")] == [
        (failure.index, failure.outcome, failure.message) for failure in result.failures
    ]


async def test_a_full_call_is_taken(dao: ClickstreamDao) -> None:
    """10,000 events in one call are stored; one more is refused as a whole."""
    many = [SessionEvent(event_id=str(place), session_id="s", event_type="view") for place in range(10_001)]
    with pytest.raises(InvalidField) as raised:
        await dao.push_events(many)

    assert ["events"] == [violation.path for violation in raised.value.violations]
    assert PushResult(inserted=10_000) == await dao.push_events(many[:10_000])
    assert PushResult(inserted=1, duplicates=9_999) == await dao.push_events(many[1:])
