"""The form of an example."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest

from clickstream import Money, Order, SearchResultItem, Session, SessionEvent, SessionWithEvents, SortBy
from clickstream.datasets import Action, Example, ShownResult, example_of
from clickstream.datasets.schema import ACTION, EXAMPLE, RESULT

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def found(*events: SessionEvent, **fields: Any) -> SessionWithEvents:
    return SessionWithEvents(
        session=Session(session_id="s", created_at=NOW, **fields),
        batch_id="b",
        session_number=7,
        registered_at=NOW,
        events=events,
        event_count=len(events),
    )


def event(event_id: str, object_id: str, **fields: Any) -> SessionEvent:
    return SessionEvent(event_id=event_id, session_id="s", object_id=object_id, created_at=NOW, **fields)


def shown(*object_ids: str) -> tuple[SearchResultItem, ...]:
    return tuple(SearchResultItem(object_id=object_id) for object_id in object_ids)


def test_clicks_are_laid_over_results() -> None:
    """A click counts at the first place of its object; one on what was not shown has no place; order is kept."""
    clicks = [event("1", "b"), event("2", "x"), event("3", "a"), event("4", "b")]
    example = example_of(found(*clicks, search_results=shown("a", "b", "b")))

    assert [1, 2, 0] == [result["clicks"] for result in example["results"]]
    assert [1, None, 0, 1] == [click["position"] for click in example["clicks"]]
    assert ["1", "2", "3", "4"] == [click["event_id"] for click in example["clicks"]]
    assert [] == example["other_events"]


def test_other_events_are_no_clicks() -> None:
    """A purchase stands among the other events with its place and its exact amount, and counts as no click."""
    price = Money(currency_code="EUR", amount="12345678901234567890.10")
    bought = event("1", "a", event_type="purchase", value=price)
    left = event("2", "", event_type="leave")
    example = example_of(found(bought, left, search_results=shown("a")))

    assert [0] == [result["clicks"] for result in example["results"]]
    assert [] == example["clicks"]
    assert [("purchase", "a", 0, "EUR", "12345678901234567890.10"), ("leave", None, None, None, None)] == [
        (done["event_type"], done["object_id"], done["position"], done["currency_code"], done["amount"])
        for done in example["other_events"]
    ]


@pytest.mark.parametrize(
    ("query", "text", "is_json"),
    [
        ("desk lamp", "desk lamp", False),
        ('{"a": 1}', '{"a": 1}', False),
        ({"b": [1, 2.5], "a": "ä"}, '{"a": "ä", "b": [1, 2.5]}', True),
        ([], "[]", True),
        ("", "", False),
        (None, None, False),
    ],
)
def test_a_query_is_text(query: Any, text: str | None, is_json: bool) -> None:
    """A structured query becomes JSON text and says so; text that looks like JSON stays what it is."""
    example = example_of(found(search_query=query))

    assert (text, is_json) == (example["query"], example["query_is_json"])


def test_what_is_free_in_form_is_json_text() -> None:
    """Every meta, the filter and the order become JSON text, or None where there is nothing."""
    full = example_of(
        found(
            event("1", "a", meta={"x": 1}),
            search_results=(SearchResultItem(object_id="a", rank=0.5, meta={"page": 1}),),
            search_meta={"app": "shop"},
            payload_filter={"in_stock": True},
            sort_by=SortBy(field="price", order=Order.DESC),
        )
    )
    bare = example_of(found(event("1", "a"), search_results=shown("a")))

    names = ("search_meta", "payload_filter", "sort_by")
    assert ['{"app": "shop"}', '{"in_stock": true}'] == [full[name] for name in names[:2]]
    assert '{"field": "price", "force_not_payload": false, "order": "DESC"}' == full["sort_by"]
    assert ('{"page": 1}', '{"x": 1}') == (full["results"][0]["meta"], full["clicks"][0]["meta"])
    assert [None] * 5 == [
        *(bare[name] for name in names),
        bare["results"][0]["meta"],
        bare["clicks"][0]["meta"],
    ]


@pytest.mark.parametrize(("form", "schema"), [(Example, EXAMPLE), (ShownResult, RESULT), (Action, ACTION)])
def test_the_schema_is_the_form(form: type, schema: Any) -> None:
    """The Arrow schema has the fields of the form, in its order, and may be null where the form may be None."""
    hints = get_type_hints(form)

    assert list(hints) == [field.name for field in schema]
    assert [type(None) in getattr(hint, "__args__", ()) for hint in hints.values()] == [
        field.nullable for field in schema
    ]
