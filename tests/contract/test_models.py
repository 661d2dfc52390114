"""What the models refuse when they are made, before anything is sent."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from clickstream import Money, SearchResultItem, Session, SessionEvent, SortBy, models
from clickstream.validation import WORDS, invalid_field
from clickstream_server.bulk import jsonl

NAN, INFINITY = float("nan"), float("inf")


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value  # type: ignore[no-any-return]


def refused_paths(model: Any, **fields: Any) -> list[str]:
    """The paths for which the model refuses these fields, as the domain's error names them."""
    with pytest.raises(ValidationError) as raised:
        model(**fields)
    return [violation.path for violation in invalid_field(raised.value).violations]


BAD_JSON: dict[str, tuple[str, Any]] = {
    "not a number": (".a", {"a": NAN}),
    "infinity": (".a.b[1]", {"a": {"b": [0, -INFINITY]}}),
    "too large an integer": (".a", {"a": 2**53 + 1}),
    "too small an integer": (".a[0]", {"a": [-(2**53) - 1]}),
    "NUL": (".a", {"a": "x\x00"}),
    "lone surrogate": (".a", {"a": "\udc80"}),
    "NUL in a key": ("", {"\x00": 1}),
    "lone surrogate in a key": (".a", {"a": {"\ud800": 1}}),
    "a key that is no text": ("", {1: 1}),
    "33 levels": (".a" * 32, nested(33)),
    "bytes": (".a", {"a": b"x"}),
    "a moment": (".a", {"a": datetime(2026, 1, 1, tzinfo=UTC)}),
    "a Decimal": (".a", {"a": Decimal(1)}),
    "a set": (".a", {"a": {1}}),
}


@pytest.mark.parametrize(("path", "value"), BAD_JSON.values(), ids=BAD_JSON)
def test_what_is_not_json_is_refused(path: str, value: Any) -> None:
    """Every field of JSON refuses what JSON cannot hold, by the path of the very place."""
    got = [
        refused_paths(Session, session_id="s", search_query=value),
        refused_paths(Session, session_id="s", search_meta=value),
        refused_paths(Session, session_id="s", payload_filter=value),
        refused_paths(Session, session_id="s", search_results=[{"object_id": "o"}, {"object_id": "o", "meta": value}]),
        refused_paths(SessionEvent, session_id="s", meta=value),
    ]
    fields = ["search_query", "search_meta", "payload_filter", "search_results[1].meta", "meta"]

    assert [[f"{field}{path}"] for field in fields] == got


def test_a_circle_is_refused() -> None:
    """An object that holds itself is nested too deeply, and no endless loop."""
    circle: dict[str, Any] = {}
    circle["a"] = circle

    assert ["search_meta" + ".a" * 32] == refused_paths(Session, session_id="s", search_meta=circle)


@pytest.mark.parametrize("query", [5, 1.5, True, b"x"], ids=repr)
def test_a_query_is_text_or_structured(query: Any) -> None:
    """A number, a boolean or bytes is not a query."""
    assert ["search_query"] == refused_paths(Session, session_id="s", search_query=query)


@pytest.mark.parametrize("text", ["a\x00", "\ud800", "x\udfff\ud800"], ids=ascii)
def test_text_without_meaning_is_refused(text: str) -> None:
    """Every field of text refuses NUL and lone surrogates."""
    got = [
        refused_paths(Session, session_id=text),
        refused_paths(Session, session_id="s", user_id=text),
        refused_paths(Session, session_id="s", search_query=text),
        refused_paths(Session, session_id="s", sort_by={"field": text}),
        refused_paths(SearchResultItem, object_id=text),
        refused_paths(SessionEvent, session_id=text),
        refused_paths(SessionEvent, session_id="s", event_id=text),
        refused_paths(SessionEvent, session_id="s", object_id=text),
        refused_paths(SessionEvent, session_id="s", event_type=text),
        refused_paths(Money, currency_code=text, amount=1),
    ]

    assert [
        *(["session_id"], ["user_id"], ["search_query"], ["sort_by.field"], ["object_id"]),
        *(["session_id"], ["event_id"], ["object_id"], ["event_type"], ["currency_code"]),
    ] == got


@pytest.mark.parametrize("rank", [NAN, INFINITY, -INFINITY, 10**400], ids=["nan", "inf", "-inf", "10**400"])
def test_a_rank_is_finite(rank: float) -> None:
    """A rank that is no finite double is refused."""
    assert ["rank"] == refused_paths(SearchResultItem, object_id="o", rank=rank)


BAD_AMOUNTS: list[Any] = [
    *("", "1e5", "+1", "1,5", "1_000", " 1", "1\n", ".5", "5.", "NaN", "Infinity", "\u0663", "0x10", "--1"),
    *(1.5, True, None, Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN")),
    *("1" * 35, Decimal("1E+34"), Decimal("1E-6177"), 10**34, 10**5000, "0." + "0" * 6177),
]


@pytest.mark.parametrize("place", range(len(BAD_AMOUNTS)))
def test_an_amount_that_is_not_exact_is_refused(place: int) -> None:
    """An amount is a plain decimal of at most 34 digits: no exponent in text, no float, nothing infinite."""
    assert ["amount"] == refused_paths(Money, currency_code="EUR", amount=BAD_AMOUNTS[place])


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("12.50", "12.50"),
        ("007.10", "7.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1.50"), "1.50"),
        (-3, "-3"),
        (Decimal("1E-5"), "0.00001"),
        (Decimal("0E-7"), "0.0000000"),
    ],
)
def test_an_amount_is_plain_digits(amount: Any, text: str) -> None:
    """An amount is written without an exponent, its trailing zeros kept."""
    assert text == Money(currency_code="EUR", amount=amount).text


def test_a_moment_has_a_zone() -> None:
    """A time without a zone is refused: nobody could say when it was."""
    assert ["created_at"] == refused_paths(Session, session_id="s", created_at=datetime(2026, 1, 1))  # noqa: DTZ001
    assert ["created_at"] == refused_paths(SessionEvent, session_id="s", created_at="2026-01-01T00:00:00")


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ],
    ids=["before the year 1", "after the year 9999"],
)
def test_a_moment_outside_of_utc_is_refused(moment: datetime) -> None:
    """A time that has no place in UTC's years 1 to 9999 is refused by its path."""
    assert ["created_at"] == refused_paths(Session, session_id="s", created_at=moment)


def test_unknown_fields_are_refused() -> None:
    """A misspelt field is refused rather than lost."""
    assert ["sesion_id"] == refused_paths(Session, session_id="s", sesion_id="s")
    assert ["sort_by.feild"] == refused_paths(Session, session_id="s", sort_by={"feild": "x"})


def test_an_unknown_order_is_refused() -> None:
    """A direction is ASC or DESC."""
    assert ["order"] == refused_paths(SortBy, order="SIDEWAYS")


def test_models_are_frozen() -> None:
    """A model cannot be changed once it is made."""
    with pytest.raises(ValidationError):
        Session(session_id="s").session_id = "t"  # type: ignore[misc]


def test_what_is_given_is_copied() -> None:
    """Changing a dict after it was given to a model does not change the model."""
    meta = {"list": [1]}
    session = Session(session_id="s", search_meta=meta)
    meta["list"].append(2)

    assert {"list": [1]} == session.search_meta


def test_an_empty_event_type_is_a_click() -> None:
    """An event without a type is a click."""
    assert "click" == SessionEvent(session_id="s", event_type="").event_type == SessionEvent(session_id="s").event_type


# --- the words ------------------------------------------------------------------------------------------------------

MODELS = [
    found
    for module in (models, jsonl)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == module.__name__
]
OWN_TYPES = {"text", "json", "moment"}
BAD_VALUES: list[Any] = [
    *(None, True, 1, -1, 1.5, 10**5000, 10**20, "x", "", "1" * 5000, b"x", b"\xff", [1], [{}], {}, {"a": NAN}, {1: 1}),
    *(NAN, INFINITY, Decimal("NaN"), Decimal("1e7000"), "\ud800", "x\x00", object(), Session, {1}, date(2025, 1, 1)),
    *("2025-13-01T00:00:00Z", "2025-01-01", "2025-01-01T00:00:00", "0001-01-01T00:00:00+14:00"),
]


def faults(model: type[BaseModel], value: Any) -> list[Any]:
    """What Pydantic finds wrong with it, as it comes from a program and, where JSON has it, from a line."""
    found: list[Any] = []
    for validate, text in ((model.model_validate, value), (model.model_validate_json, as_json(value))):
        try:
            if text is not None:
                validate(text)  # type: ignore[operator]
        except ValidationError as error:
            found.append(error)
    return found


def as_json(value: Any) -> str | None:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return None


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_what_is_wrong_is_told_in_our_own_words(model: type[BaseModel]) -> None:
    """Whatever a model refuses in whichever field, no wording of Pydantic reaches those who sent it."""
    objects = [{name: value} for name in model.model_fields for value in BAD_VALUES]
    errors = [error for value in ({}, {"x": 1}, *objects, *BAD_VALUES) for error in faults(model, value)]
    told = [violation.description for error in errors for violation in invalid_field(error).violations]

    assert set() == {found["type"] for error in errors for found in error.errors()} - set(WORDS) - OWN_TYPES
    assert told
    assert not [words for words in told if not words or "Input" in words or "{" in words]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("session_id", 5, "must be text"),
        ("search_results", "lamp", "must be a list"),
        ("search_meta", [], "must be an object"),
        ("is_irrelevant", "maybe", "must be true or false"),
        ("created_at", "yesterday", "must be a moment in time, such as 2026-11-21T08:00:00Z"),
        ("created_at", "2026-11-21T08:00:00", "must say its time zone, such as Z or +01:00"),
        ("sort_by", {"order": "UP"}, "must be 'ASC' or 'DESC'"),
        ("colour", "red", "is not a field of this form"),
    ],
)
def test_common_faults_have_plain_words(field: str, value: Any, words: str) -> None:
    """What people commonly get wrong is told so that they can mend it."""
    with pytest.raises(ValidationError) as raised:
        Session.model_validate({"session_id": "s", field: value})

    assert [words] == [violation.description for violation in invalid_field(raised.value).violations]
