"""The canonical form and its hash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest
from sent import document_of

from clickstream import Money, Session, SessionEvent, SortBy
from clickstream_server import canonical

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def session(**fields: object) -> Session:
    return Session.model_validate({"session_id": "s"} | fields)


def event(**fields: object) -> SessionEvent:
    """An event; `created_at` is set, or the server's clock would be in its document."""
    return SessionEvent.model_validate({"session_id": "s", "object_id": "o", "created_at": FIRST} | fields)


def canonical_session(made: Session) -> bytes:
    return canonical.canonical_session(document_of(made))


def canonical_event(made: SessionEvent) -> bytes:
    return canonical.canonical_event(document_of(made))


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


SESSION_FIELDS: list[dict[str, object]] = [
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
]
EVENT_FIELDS: list[dict[str, object]] = [
    {"session_id": "t"},
    {"object_id": "p"},
    {"event_type": "purchase"},
    {"created_at": datetime(2026, 1, 2, tzinfo=UTC)},
    {"meta": {"a": 1}},
    {"value": Money(currency_code="EUR", amount=1)},
]


def test_no_field_is_left_out() -> None:
    """Every field of a session and of an event stands in one of the lists above, but for the id of its own."""
    assert {name for fields in SESSION_FIELDS for name in fields} == Session.model_fields.keys() - {"session_id"}
    assert {name for fields in EVENT_FIELDS for name in fields} == SessionEvent.model_fields.keys() - {"event_id"}


@pytest.mark.parametrize("fields", SESSION_FIELDS)
def test_every_field_of_a_session_is_part_of_its_content(fields: dict[str, object]) -> None:
    """A session that differs in any one field has another form than the bare one."""
    assert canonical_session(session(**fields)) != canonical_session(session())


@pytest.mark.parametrize("fields", EVENT_FIELDS)
def test_every_field_of_an_event_but_its_id_is_part_of_its_content(fields: dict[str, object]) -> None:
    """An event that differs in any field but its id has another form."""
    assert canonical_event(event(**fields)) != canonical_event(event())


def test_an_event_id_is_derived_from_the_content_alone() -> None:
    """The derived id stays what it is over releases: 128 bits of the SHA-256 of this very text."""
    sent = event(meta={"position": 3.0})
    form = (
        b'{"created_at":1767225600000000,"event_type":"click","meta":{"position":3},"object_id":"o","session_id":"s"}'
    )

    assert form == canonical_event(sent)
    assert sha256(form).hexdigest()[:32] == document_of(sent)["_id"]["event_id"]


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (-3.5, "-3.5"),
        (0.1, "0.1"),
        (1 / 3, "0.3333333333333333"),
        (2.0**53, "9007199254740992"),
        (2.0**53 + 2, "9007199254740994.0"),
        (-(2.0**63), "-9.223372036854776e+18"),
        (1e15 + 0.5, "1000000000000000.5"),
        (1e16, "1e+16"),
        (123456789012345680.0, "1.2345678901234568e+17"),
        (1e21, "1e+21"),
        (1e22, "1e+22"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (2.2250738585072014e-308, "2.2250738585072014e-308"),
        (0.001, "0.001"),
        (0.0001, "0.0001"),
        (0.00001, "0.00001"),
        (0.000001, "1e-6"),
        (1.5e-7, "1.5e-7"),
        ('"\\/\b\f\n\r\t\x01\x1f\x7f', '"\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f"'),
        ("ü\u2028😀", '"ü\u2028😀"'),
        ({"b": 1, "a": 2, "ü": 3, "\uffff": 4, "😀": 5, "A": 6}, '{"A":6,"a":2,"b":1,"ü":3,"\uffff":4,"😀":5}'),
        ([None, True, False, [], {}, ""], '[null,true,false,[],{},""]'),
    ],
)
def test_the_form_of_values_stays_what_it_is(value: object, form: str) -> None:
    """Whole numbers within 2^53 are integers, others the shortest that reads back the same; nothing else moves."""
    expected = b'{"created_at":1767225600000000,"event_type":"click","meta":{"a":%s},"object_id":"o","session_id":"s"}'

    assert (expected % form.encode()) == canonical_event(event(meta={"a": value}))


def test_the_hash_of_everything_stays_what_it_is() -> None:
    """What is stored was hashed by some release: another hash of the same content would make a conflict of a retry."""
    whole = session(
        search_query={"text": "lampe à poser", "boost": 1e16},
        search_results=[{"object_id": "o", "rank": 1, "meta": {"score": 0.1}}, {"object_id": "p"}],
        search_meta={"z": [1, 2.5, None], "a": {"b": True}},
        payload_filter={"f": []},
        sort_by={"field": "price", "order": "DESC", "force_not_payload": True},
        user_id="u",
        created_at=FIRST,
        is_irrelevant=True,
        is_payload_search=True,
    )
    bought = event(event_type="purchase", meta={"n": 1e-6}, value=Money(currency_code="EUR", amount="12.50"))

    assert SESSION_HASH == document_of(whole)["content_hash"].hex()
    assert EVENT_HASH == document_of(bought)["content_hash"].hex()
    assert EVENT_HASH[:32] == document_of(bought)["_id"]["event_id"]


SESSION_HASH = "0b43e851ec504eb33506bd5b3121916a924bb9698816c4a74d29ba568b5e9524"
EVENT_HASH = "2e355af3db433d978d2490dad1a7c5732d402b111af5db858ece9fc20dba2731"
