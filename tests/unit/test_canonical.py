"""The canonical form and its hash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest

from clickstream import Money, Session, SessionEvent, SortBy
from clickstream_server.canonical import canonical_event, canonical_session, content_hash, derived_event_id


def session(**fields: object) -> Session:
    return Session.model_validate({"session_id": "s"} | fields)


def event(**fields: object) -> SessionEvent:
    return SessionEvent.model_validate({"session_id": "s", "object_id": "o"} | fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (session(search_meta={"a": 1, "b": 2}), session(search_meta={"b": 2, "a": 1})),
        (session(search_meta={"a": 1}), session(search_meta={"a": 1.0})),
        (session(search_meta={}), session()),
        (session(sort_by=SortBy(field="f")), session(sort_by={"field": "f", "order": "ASC"})),
        (
            session(created_at=datetime(2026, 1, 1, 12, tzinfo=UTC)),
            session(created_at=datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
        ),
    ],
)
def test_what_means_the_same_has_one_form(one: Session, other: Session) -> None:
    """Key order, 1 and 1.0, an empty object and none, defaults and time zones make no difference."""
    assert canonical_session(one) == canonical_session(other)


@pytest.mark.parametrize(
    "fields",
    [
        {"search_query": "lamp"},
        {"search_query": ["lamp"]},
        {"search_query": {"text": "lamp"}},
        {"search_results": [{"object_id": "o"}]},
        {"search_results": [{"object_id": "o", "rank": 0}]},
        {"search_results": [{"object_id": "o", "meta": {"a": 1}}]},
        {"search_meta": {"a": 1}},
        {"search_meta": {"a": True}},
        {"search_meta": {"a": "1"}},
        {"payload_filter": {"a": 1}},
        {"sort_by": {}},
        {"sort_by": {"field": "f"}},
        {"sort_by": {"field": "f", "order": "DESC"}},
        {"sort_by": {"field": "f", "force_not_payload": True}},
        {"user_id": "u"},
        {"created_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"created_at": datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)},
        {"is_irrelevant": True},
        {"is_payload_search": True},
    ],
)
def test_every_field_of_a_session_is_part_of_its_content(fields: dict[str, object]) -> None:
    """A session that differs in any one field has another form than the bare one and than all the others here."""
    assert canonical_session(session(**fields)) != canonical_session(session())
    assert set(fields) <= set(Session.model_fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"session_id": "t"},
        {"object_id": "p"},
        {"event_type": "purchase"},
        {"created_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"meta": {"a": 1}},
        {"value": Money(currency_code="EUR", amount=1)},
    ],
)
def test_every_field_of_an_event_but_its_id_is_part_of_its_content(fields: dict[str, object]) -> None:
    """An event that differs in any field but its id has another form."""
    assert canonical_event(event(**fields)) != canonical_event(event())


def test_an_event_id_is_derived_from_the_content_alone() -> None:
    """The derived id stays what it is over releases: 128 bits of the SHA-256 of this very text."""
    sent = event(event_id="any", created_at=datetime(2026, 1, 1, tzinfo=UTC), meta={"position": 3.0})
    form = (
        b'{"created_at":1767225600000000,"event_type":"click","meta":{"position":3},"object_id":"o","session_id":"s"}'
    )

    assert form == canonical_event(sent)
    assert sha256(form).hexdigest()[:32] == derived_event_id(content_hash(canonical_event(sent)))
