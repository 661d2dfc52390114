"""Round trips of every field, on every backend: what is sent comes back, to the last digit and microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from clickstream import ClickstreamDao, InvalidField, Money, Order, SearchResultItem, Session, SessionEvent, SortBy

NOON = datetime(2026, 3, 1, 12, 34, 56, 789_012, tzinfo=UTC)


def nested(levels: int, *, lists: bool = False) -> Any:
    """An object with this many levels in all, of objects or of lists, and a number at the bottom."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value] if lists else {"a": value}
    return {"a": value}


JSON: dict[str, dict[str, Any]] = {
    "all kinds": {
        "null": None,
        "yes": True,
        "no": False,
        "text": "x",
        "number": 1,
        "list": [1, "a"],
        "object": {"a": 1},
    },
    "empty things": {"object": {}, "list": [], "text": "", "inside": [[], {}, ""]},
    "empty key": {"": {"": 1}},
    "keys of MongoDB": {"a.b": 1, "$set": {"$inc": {"a": 1}}, "_id": "x", ".": 1, "$": 2, "a.": {"_id": {"$gt": ""}}},
    "keys of protobuf": {"fields": {"a": 1}},
    "values of protobuf": {"values": [1], "struct_value": {"fields": {}}, "kind": "null_value"},
    "a reference": {"$ref": "people", "$id": 5},
    "a reference with more": {"$ref": "people", "$id": {"$ref": "a", "$id": [1]}, "$db": "d", "more": {"x": 1}},
    "a reference to nowhere": {"$ref": "people", "$id": None},
    "half a reference": {"$ref": 5, "$id": 1},
    "references in a list": {"list": [{"$ref": "a", "$id": "b"}, {"$id": 1, "$ref": "c"}]},
    "extended JSON": {"$oid": "5f5e0c3b1c9d440000000000", "$date": 1, "$numberDecimal": "1.5"},
    "integers": {"max": 2**53, "min": -(2**53), "zero": 0, "beyond 32 bits": 2**31, "below them": -(2**31) - 1},
    "floats": {"third": 1 / 3, "tiny": 5e-324, "huge": 1.7976931348623157e308, "past integers": 2.0**60, "e": -1.5e-7},
    "unicode": {
        "größe ✓": "日本語 \U0001f600 e\u0301 \u00e9 \u200b \ufffe \U0010ffff",
        "\U0001f600": '\x01\x7f\r\n\t"\\/',
    },
    "deep objects": nested(32),
    "deep lists": nested(32, lists=True),
    "nearly too large": {"t": "x" * (64 * 1024 - 8)},
}
"""Objects that must come back as they are, by what is special about them."""


def exact(value: Any) -> Any:
    """The value so that 1, 1.0 and True differ, and -0.0 from 0."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    return type(value).__name__, repr(value)


async def session_back(dao: ClickstreamDao, session: Session) -> list[Session]:
    """The session as each of the three ways of reading gives it."""
    done = await dao.register_session(session)
    found = await dao.get_session(session.session_id)
    assert found is not None
    number = done.session.session_number
    in_batch = dao.get_batch_sessions(done.session.batch_id, after_number=number - 1, limit=1)
    return [done.session.session, found.session, *[one.session async for one in in_batch]]


async def events_back(dao: ClickstreamDao, events: list[SessionEvent]) -> dict[str, list[SessionEvent]]:
    """The events of session `s` by id, as both ways of reading give them."""
    done = await dao.register_session(Session(session_id="s"))
    assert len(events) == (await dao.push_events(events)).inserted
    found = await dao.get_session("s", events_limit=None)
    assert found is not None
    (read,) = [one async for one in dao.get_batch_sessions(done.session.batch_id)]
    return {one.event_id: [one, two] for one, two in zip(found.events, read.events, strict=True)}


# --- sessions -------------------------------------------------------------------------------------------------------


async def test_a_session_with_every_field(dao: ClickstreamDao) -> None:
    """A session with all of its fields set comes back equal, however it is read."""
    session = Session(
        session_id="s-ü-日本",
        search_query={"text": "lamp", "must": [{"price": {"lt": 9.99}}]},
        search_results=tuple(
            SearchResultItem(object_id=f"o{place}", rank=1 / (place + 1), meta={"place": place}) for place in range(3)
        ),
        search_meta={"app": "shop"},
        payload_filter={"$and": [{"colour": "red"}]},
        sort_by=SortBy(field="price", order=Order.DESC, force_not_payload=True),
        user_id="u",
        created_at=NOON,
        is_irrelevant=True,
        is_payload_search=True,
    )

    assert [session] * 3 == await session_back(dao, session)


async def test_a_float_of_another_type_is_a_float(dao: ClickstreamDao) -> None:
    """What is derived from Python's float, as numpy's floats are, is sent as the number that it is."""

    class Score(float):
        """A type of float."""

    session = Session(session_id="s", search_query=[Score(0.5)], search_meta={"score": Score(0.1), "whole": Score(3)})
    expected = exact({"query": [0.5], "score": 0.1, "whole": 3})
    back = [exact({"query": found.search_query, **found.search_meta}) for found in await session_back(dao, session)]

    assert [expected] * 3 == [{key: one[key] for key in expected} for one in back]


async def test_a_session_with_defaults_only(dao: ClickstreamDao) -> None:
    """A session of which only the id is given comes back with every default and a created_at."""
    for read in await session_back(dao, Session(session_id="s")):
        assert read.created_at is not None
        assert Session(session_id="s") == read.model_copy(update={"created_at": None})


async def test_every_json_object_comes_back(dao: ClickstreamDao) -> None:
    """Every kind of JSON object comes back exactly, in every field of a session that takes one."""
    wrong = []
    for name, value in JSON.items():
        session = Session(
            session_id=name,
            search_query=value,
            search_meta=value,
            payload_filter=value,
            search_results=(SearchResultItem(object_id="o", meta=value),),
        )
        expected = [exact(value)] * 4
        for read in await session_back(dao, session):
            got = [read.search_query, read.search_meta, read.payload_filter, read.search_results[0].meta]
            if expected != exact(got):
                wrong.append((name, next(item for item in got if exact(item) != exact(value))))

    assert [] == wrong


async def test_a_null_in_a_reference_is_refused(dao: ClickstreamDao) -> None:
    """What looks like a MongoDB reference with a null database, which would come back without it, is refused."""
    with pytest.raises(InvalidField, match="cannot be stored"):
        await dao.register_session(Session(session_id="s", search_meta={"$ref": "people", "$id": 1, "$db": None}))

    assert None is await dao.get_session("s")


async def test_every_query_comes_back(dao: ClickstreamDao) -> None:
    """A query is text, an object, a list or nothing, and the empty ones of these stay apart."""
    queries: list[Any] = [None, "", "lamp", {}, [], [None], [[]], ["lamp", 1, {"a": []}], {"query": None}]
    wrong = []
    for place, query in enumerate(queries):
        read = await session_back(dao, Session(session_id=f"s{place}", search_query=query))
        if [exact(query)] * 3 != [exact(one.search_query) for one in read]:
            wrong.append((query, [one.search_query for one in read]))

    assert [] == wrong


async def test_every_rank_comes_back(dao: ClickstreamDao) -> None:
    """A rank is any finite double, and 0 is not the same as none."""
    ranks = [None, 0.0, -0.0, 1.0, -1.5, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 2.0**60]
    session = Session(
        session_id="s", search_results=tuple(SearchResultItem(object_id="o", rank=rank) for rank in ranks)
    )

    for read in await session_back(dao, session):
        assert exact(ranks) == exact([item.rank for item in read.search_results])


async def test_results_stay_in_their_order(dao: ClickstreamDao) -> None:
    """A thousand results come back in the order in which they were shown, repeats included."""
    ids = [f"o{place % 7}" for place in range(1000)]
    session = Session(session_id="s", search_results=tuple(SearchResultItem(object_id=one) for one in ids))

    for read in await session_back(dao, session):
        assert ids == [item.object_id for item in read.search_results]


async def test_sort_by_comes_back(dao: ClickstreamDao) -> None:
    """An order with nothing but defaults is not the same as none."""
    for session_id, sort_by in {"none": None, "defaults": SortBy(), "some": SortBy(field="", order=Order.DESC)}.items():
        read = await session_back(dao, Session(session_id=session_id, sort_by=sort_by))

        assert [sort_by] * 3 == [one.sort_by for one in read]


async def test_every_moment_comes_back(dao: ClickstreamDao) -> None:
    """Times are exact to the microsecond, before 1970 as after, and come back in UTC."""
    moments = {
        "now": NOON,
        "epoch": datetime(1970, 1, 1, tzinfo=UTC),
        "a microsecond before": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        "long before": datetime(1815, 12, 10, 1, 2, 3, 4, tzinfo=UTC),
        "the first": datetime(1, 1, 1, tzinfo=UTC),
        "elsewhere": NOON.astimezone(timezone(timedelta(hours=-9, minutes=-30))),
    }
    for name, moment in moments.items():
        read = await session_back(dao, Session(session_id=name, created_at=moment))

        assert [(moment, timedelta(0))] * 3 == [
            (one.created_at, one.created_at.utcoffset() if one.created_at else None) for one in read
        ]


async def test_odd_ids_come_back(dao: ClickstreamDao) -> None:
    """Ids are any text: what looks like a number, an operator or a path is none, and forms of a letter stay apart."""
    ids = [
        "0",
        "$gt",
        "a.b",
        "..",
        "_id",
        "{}",
        " a",
        "a ",
        "a",
        "A",
        "é",
        "e\u0301",
        "\U0001f600",
        "a\nb",
        "null",
        "x" * 256,
    ]
    for session_id in ids:
        await session_back(dao, Session(session_id=session_id, user_id=session_id))
    found = [await dao.get_session(session_id) for session_id in ids]

    assert [(one, one) for one in ids] == [(one.session.session_id, one.session.user_id) for one in found if one]


# --- events ---------------------------------------------------------------------------------------------------------


async def test_an_event_with_every_field(dao: ClickstreamDao) -> None:
    """An event with all of its fields set comes back equal, however it is read."""
    event = SessionEvent(
        event_id="e-ü",
        session_id="s",
        object_id="o-日本",
        event_type="add_to_cart",
        created_at=NOON,
        meta={"position": 3},
        value=Money(currency_code="JPY", amount=Decimal(1200)),
    )

    assert {"e-ü": [event, event]} == await events_back(dao, [event])


async def test_an_event_with_defaults_only(dao: ClickstreamDao) -> None:
    """An event of which only what must be is given comes back with every default and a created_at."""
    event = SessionEvent(event_id="e", session_id="s", object_id="o")

    for read in (await events_back(dao, [event]))["e"]:
        assert read.created_at is not None
        assert event == read.model_copy(update={"created_at": None})


async def test_every_meta_of_an_event_comes_back(dao: ClickstreamDao) -> None:
    """Every kind of JSON object comes back exactly in an event."""
    events = [SessionEvent(event_id=name, session_id="s", object_id="o", meta=value) for name, value in JSON.items()]
    back = await events_back(dao, events)

    assert [] == [
        (name, back[name][0].meta) for name in JSON if [exact(JSON[name])] * 2 != exact([e.meta for e in back[name]])
    ]


async def test_every_amount_comes_back(dao: ClickstreamDao) -> None:
    """Amounts are exact: 34 digits, trailing zeros and the sign of a negative zero are kept."""
    amounts = [
        *("0", "0.00", "-0.00", "12.50", "-3", "1200", "1000000", "0.1", "0.10", "100.000", "0.000000001"),
        *(
            "1" * 34,
            "-" + "9" * 34,
            "1" + "0" * 33,
            "0." + "1" * 34,
            "1." + "0" * 33,
            "1234567890123456.789012345678901234",
        ),
    ]
    events = [
        SessionEvent(
            event_id=f"{place}",
            session_id="s",
            event_type="purchase",
            value=Money.model_validate({"currency_code": "EUR", "amount": amount}),
        )
        for place, amount in enumerate(amounts)
    ]
    back = await events_back(dao, events)
    got = [[event.value.text if event.value else None for event in back[f"{place}"]] for place in range(len(amounts))]

    assert [[amount] * 2 for amount in amounts] == got


async def test_event_times_come_back(dao: ClickstreamDao) -> None:
    """Times of events are exact to the microsecond, before 1970 as after, and order them."""
    moments = [datetime(1815, 12, 10, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NOON]
    events = [
        SessionEvent(event_id=str(place), session_id="s", object_id="o", created_at=moment)
        for place, moment in reversed(list(enumerate(moments)))
    ]
    back = await events_back(dao, events)

    assert ["0", "1", "2"] == list(back)
    assert [[moment] * 2 for moment in moments] == [[event.created_at for event in both] for both in back.values()]


async def test_whole_numbers_come_back_as_integers(dao: ClickstreamDao) -> None:
    """A whole number within 2^53 is an integer when it comes back, even if it was sent as 3.0."""
    meta = {"x": 3.0, "y": [-0.0, float(2**53)], "z": 2.5}
    back = await events_back(dao, [SessionEvent(event_id="e", session_id="s", object_id="o", meta=meta)])

    assert [exact({"x": 3, "y": [0, 2**53], "z": 2.5})] * 2 == [exact(event.meta) for event in back["e"]]
