"""The limits' checks, at their edges."""

from __future__ import annotations

import pytest
from sent import document_of

from clickstream import InvalidField, Session, SessionEvent
from clickstream.values import datetime_from_micros

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


def faults(thing: Session | SessionEvent, created_at: int | None = NOW, **limits: object) -> list[str]:
    """The paths that a check complains about."""
    moment = None if created_at is None else datetime_from_micros(created_at)
    try:
        document_of(thing.model_copy(update={"created_at": moment}), now_micros=NOW, **limits)
    except InvalidField as error:
        return [violation.path for violation in error.violations]
    return []


@pytest.mark.parametrize(
    ("session", "paths"),
    [
        (Session(session_id="x" * 256), []),
        (Session(session_id="x" * 257), ["session_id"]),
        (Session(session_id="ü" * 256), []),
        (Session(session_id=" \t"), ["session_id"]),
        (Session(session_id="s", user_id=""), ["user_id"]),
        (Session(session_id="s", search_results=[{"object_id": "o"}] * 1000), []),
        (Session(session_id="s", search_results=[{"object_id": "o"}] * 1001), ["search_results"]),
        (
            Session(session_id="s", search_results=[{"object_id": "o"}, {"object_id": ""}]),
            ["search_results[1].object_id"],
        ),
        (Session(session_id="s", search_meta={"a": "x" * (65536 - 8)}), []),
        (Session(session_id="s", search_meta={"a": "x" * (65536 - 7)}), ["search_meta"]),
        (Session(session_id="s", search_query="x" * (1024 * 1024)), [""]),
    ],
)
def test_sessions_at_their_limits(session: Session, paths: list[str]) -> None:
    """A session is accepted up to each limit and refused past it, with the field's path."""
    assert paths == faults(session)


@pytest.mark.parametrize(
    ("event", "created_at", "paths"),
    [
        (SessionEvent(session_id="s", event_id="e", object_id="o"), None, []),
        (SessionEvent(session_id="s", object_id="o"), NOW, []),
        (SessionEvent(session_id="s", object_id="o"), None, ["created_at"]),
        (SessionEvent(session_id="s", event_id="e"), NOW, ["object_id"]),
        (SessionEvent(session_id="s", event_id="e", event_type=""), NOW, ["object_id"]),
        (SessionEvent(session_id="s", event_id="e", event_type="filter"), NOW, []),
        (SessionEvent(session_id="s", event_id="e", event_type="x" * 64), NOW, []),
        (SessionEvent(session_id="s", event_id="e", event_type="x" * 65), NOW, ["event_type"]),
        (SessionEvent(session_id="s", event_id="e", event_type=" "), NOW, ["event_type"]),
        (SessionEvent(session_id="s", event_id="e", object_id=" "), NOW, ["object_id"]),
        (SessionEvent(session_id="", event_id=" ", object_id="o"), NOW, ["session_id", "event_id"]),
        (SessionEvent(session_id="s", event_id="e", object_id="o", meta={"a": "x" * 65536}), NOW, ["meta"]),
        (
            SessionEvent(session_id="s", event_id="e", object_id="o", value={"currency_code": "EUX", "amount": "1"}),
            NOW,
            ["value.currency_code"],
        ),
    ],
)
def test_events_at_their_limits(event: SessionEvent, created_at: int | None, paths: list[str]) -> None:
    """An event is accepted up to each limit and refused past it, with the field's path."""
    assert paths == faults(event, created_at)


def nested(levels: int) -> dict[str, object]:
    return {"a": [nested(levels - 2)] if levels > 2 else [] if levels == 2 else 1}


@pytest.mark.parametrize("levels", [1, 2, 31])
def test_json_deeper_than_the_setting_is_refused(levels: int) -> None:
    """With a lower limit JSON is accepted up to so many levels of objects and lists, wherever it stands."""
    deep = {"search_query": nested(levels), "search_meta": nested(levels), "payload_filter": nested(levels)}
    session = Session(session_id="s", search_results=[{"object_id": "o", "meta": nested(levels)}], **deep)
    event = SessionEvent(session_id="s", event_id="e", object_id="o", meta=nested(levels))

    assert [] == faults(session, json_depth_max=levels) + faults(event, json_depth_max=levels)
    if levels > 1:
        paths = ["search_query", "search_meta", "payload_filter", "search_results[0].meta"]
        assert paths == faults(session, json_depth_max=levels - 1)
        assert ["meta"] == faults(event, json_depth_max=levels - 1)


@pytest.mark.parametrize(
    ("created_at", "paths"),
    [
        (NOW + 300 * SECOND, []),
        (NOW + 300 * SECOND + 1, ["created_at"]),
        (NOW - 60 * SECOND, []),
        (NOW - 60 * SECOND - 1, ["created_at"]),
    ],
)
def test_times_too_far_from_now(created_at: int, paths: list[str]) -> None:
    """A time may lie five minutes ahead, and as far back as the setting says."""
    assert paths == faults(Session(session_id="s"), created_at, age_s_max=60.0)
