"""Our own JSON Lines form: equal sessions are equal bytes, and what is not of the form is refused with its place."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from clickstream.errors import InvalidField
from clickstream.export import ExportAccount, ExportedSession, totals_of
from clickstream.models import Money, Order, SearchResultItem, Session, SessionEvent, SessionWithEvents, SortBy
from clickstream_server.bulk import formats, jsonl

MOMENT = datetime(2026, 11, 21, 8, 0, 0, 1, tzinfo=UTC)
SESSION = Session(
    session_id="s-1",
    search_query={"b": [1, 2.5, None], "a": "läm\u2028p"},
    search_results=(SearchResultItem(object_id="o", rank=-0.5, meta={"z": 1, "a": {"y": 1, "x": 2}}),),
    search_meta={"app": "shop"},
    payload_filter={"price": {"$lt": 5}},
    sort_by=SortBy(field="price", order=Order.DESC, force_not_payload=True),
    user_id="u",
    created_at=MOMENT,
    is_irrelevant=True,
    is_payload_search=True,
)
EVENT = SessionEvent(
    event_id="e",
    session_id="s-1",
    object_id="o",
    event_type="buy",
    created_at=MOMENT,
    meta={"n": 2**53},
    value=Money(currency_code="EUR", amount=Decimal("-12.500")),
)


def exported(session: Session = SESSION, *events: SessionEvent) -> ExportedSession:
    found = SessionWithEvents(
        session=session, batch_id="b", session_number=7, registered_at=MOMENT, events=events, event_count=len(events)
    )
    return ExportedSession(found, totals_of(events))


def test_no_field_is_left_out() -> None:
    """The session and the event of this file have every field set, and Parquet has a column for each of a line."""
    for example in (SESSION, EVENT):
        fields = type(example).model_fields.items()
        unset = [
            name for name, field in fields if getattr(example, name) == field.get_default(call_default_factory=True)
        ]
        assert [] == unset
    row = jsonl.row_from_session(exported(SESSION, EVENT), with_place=True)
    columns = formats._schema(pa, with_place=True)

    assert {*row.pop("session"), *row} == set(columns.names)
    assert set(row["events"][0]) == {field.name for field in columns.field("events").type.value_type}


@pytest.mark.parametrize("with_place", [False, True])
@pytest.mark.parametrize("session", [SESSION, Session(session_id="bare", created_at=MOMENT)])
def test_a_line_read_back_is_the_same_session(session: Session, *, with_place: bool) -> None:
    """Every field of a session and of an event survives the way into a line and back."""
    line = jsonl.line_from_session(exported(session, EVENT), with_place=with_place)

    read = jsonl.row_from_line(line.decode())

    assert session == read.item.session
    (event,) = read.item.events
    assert isinstance(event, SessionEvent)
    assert EVENT.model_dump() | {"session_id": ""} == event.model_dump()


def test_keys_stand_in_a_fixed_order() -> None:
    """The order in which free JSON was built does not show in the line."""
    other = SESSION.model_copy(update={"search_query": {"a": "läm\u2028p", "b": [1, 2.5, None]}})

    assert jsonl.line_from_session(exported(other)) == jsonl.line_from_session(exported())


def test_the_place_is_left_out_unless_asked_for() -> None:
    """Without its place a line has nothing that a new import would change."""
    assert ["session", "events", "event_count", "totals"] == list(jsonl.row_from_session(exported()))
    assert {"batch_id", "session_number", "registered_at"} == (
        jsonl.row_from_session(exported(), with_place=True).keys() - jsonl.row_from_session(exported()).keys()
    )


def test_times_and_amounts_are_exact_text() -> None:
    """Times have microseconds and Z, amounts keep their zeros."""
    row = jsonl.row_from_session(exported(SESSION, EVENT))

    assert "2026-11-21T08:00:00.000001Z" == row["session"]["created_at"]
    assert {"currency_code": "EUR", "amount": "-12.500"} == row["events"][0]["value"]
    assert [{"currency_code": "EUR", "amount": "-12.500"}] == row["totals"]


SOUND: dict[str, Any] = {"session": {"session_id": "s"}, "events": [{"event_id": "e", "object_id": "o"}]}


def with_value(**value: Any) -> dict[str, Any]:
    return SOUND | {"events": [{"event_id": "e", "object_id": "o", "value": value}]}


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"session_id": "s"}, "session"),
        (SOUND | {"extra": 1}, "extra"),
        (SOUND | {"session": {"session_id": "s", "colour": 1}}, "session.colour"),
        (SOUND | {"session": {"session_id": 5}}, "session.session_id"),
        (SOUND | {"session": {"session_id": "s", "created_at": "2026-11-21T08:00:00"}}, "session.created_at"),
        (SOUND | {"session": {"session_id": "s", "created_at": 1763712000}}, "session.created_at"),
        (SOUND | {"session": {"session_id": "s", "created_at": "20190501"}}, "session.created_at"),
        (SOUND | {"session": {"session_id": "s", "created_at": "-1763712000.5"}}, "session.created_at"),
        (SOUND | {"events": [{"event_id": "e", "created_at": "1763712000000"}]}, "events[0].created_at"),
        (SOUND | {"session": {"session_id": "s", "is_irrelevant": "yes"}}, "session.is_irrelevant"),
        (SOUND | {"session": {"session_id": "s", "search_meta": {"n": 2**53 + 1}}}, "session.search_meta.n"),
        (SOUND | {"events": [{"event_id": "e", "kind": "x"}]}, "events[0].kind"),
        (with_value(currency_code="EUR", amount="1" * 40), "events[0].value.amount"),
        (with_value(currency_code="EUR", amount="1e3"), "events[0].value.amount"),
        (with_value(currency_code="EUR", amount=1), "events[0].value"),
        (with_value(currency_code="EUR", amount=1.5), "events[0].value"),
        ([SOUND], ""),
    ],
)
def test_what_is_not_of_the_form_is_refused_with_its_path(row: Any, path: str) -> None:
    """A line with an unknown field, a missing one or a wrong value is refused, and the error names the place."""
    with pytest.raises(InvalidField) as caught:
        jsonl.row_from_line(json.dumps(row))

    assert path == caught.value.violations[0].path


def test_digits_in_free_json_are_no_times() -> None:
    """What free JSON has under the name of a time may be anything."""
    meta = {"created_at": "20190501"}
    row = {"session": {"session_id": "s", "search_meta": meta}, "events": [{"event_id": "e", "meta": meta}]}

    read = jsonl.row_from_line(json.dumps(row))

    assert isinstance(read.item.session, Session)
    assert meta == read.item.session.search_meta


@pytest.mark.parametrize(
    "text", ['{"session":', '{"session": {"session_id": "\\ud800"}}', "nonsense", "[" * 5000, '{"session": nul}']
)
def test_what_is_not_json_is_refused(text: str) -> None:
    """A line that is not JSON raises BrokenLine, whatever is wrong with it."""
    with pytest.raises(jsonl.BrokenLine):
        jsonl.row_from_line(text)


def test_only_what_an_export_wrote_asks_for_a_trailer() -> None:
    """A line made by hand, without counts, is not taken for a part of an export."""
    assert not jsonl.row_from_line(json.dumps(SOUND)).exported
    assert jsonl.row_from_line(jsonl.line_from_session(exported()).decode()).exported


def test_a_trailer_read_back_is_the_same() -> None:
    """The counts, totals and digest of a trailer survive the way into a line and back."""
    account = ExportAccount(2, 3, (Money(currency_code="EUR", amount=Decimal("1.10")),))

    line = jsonl.line_from_trailer(account, "ab")

    assert jsonl.is_trailer(line)
    assert {
        "sessions": 2,
        "events": 3,
        "totals": ({"currency_code": "EUR", "amount": "1.10"},),
        "sha256": "ab",
    } == jsonl.trailer_from_line(line.decode()).model_dump()
    assert not jsonl.is_trailer(jsonl.line_from_session(exported()))
