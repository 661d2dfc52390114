"""Rows of a UBI log become sessions and events: the mapping alone, without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import BufferedReader, BytesIO
from typing import Any

import pytest

from clickstream_server.bulk.account import LogAccount
from clickstream_server.bulk.rows import Refusal, Sendable
from clickstream_server.bulk.sources import Lines
from clickstream_server.bulk.ubi import lines
from clickstream_server.bulk.ubi import mapping as ubi
from clickstream_server.bulk.ubi.rows import UbiRows
from clickstream_server.bulk.ubi.spool import Spool, spooling
from clickstream_server.sample import sample_log

MOMENT = datetime(2024, 12, 10, 0, 1, 29, 378000, UTC)
STAMP = "2024-12-10T00:01:29.378Z"


def a_query(**fields: Any) -> dict[str, Any]:
    return {"query_id": "q", "client_id": "c", "user_query": "lamp", "timestamp": STAMP} | fields


def an_event(**fields: Any) -> dict[str, Any]:
    return {"query_id": "q", "action_name": "hover", "timestamp": STAMP} | fields


def shown(object_id: Any, ordinal: Any = None) -> dict[str, Any]:
    position = {} if ordinal is None else {"position": {"ordinal": ordinal}}
    return an_event(action_name="impression", event_attributes={"object": {"object_id": object_id}, **position})


def session_of(*rows: dict[str, Any]) -> ubi.MappedQuery:
    """The session of the only query in a log of these rows."""
    with spooling() as spool:
        fill(spool, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        (query_id,) = spool.queries()
        return spool.session(query_id)


def fill(spool: Spool, log: bytes) -> None:
    for row in read(log).rows:
        spool.add(row)


class Read:
    """What the lines of a log are."""

    def __init__(self, log: bytes) -> None:
        self.counts = lines.LineCounts()
        found = list(lines.read_rows(BytesIO(log), self.counts))
        self.rows = [row for row in found if isinstance(row, lines.Row)]
        self.refused = [row for row in found if isinstance(row, lines.RefusedRow)]


def read(log: bytes) -> Read:
    return Read(log)


def reasons(refused: list[lines.RefusedRow]) -> dict[str, list[int]]:
    return {row.reason: [each.line for each in refused if each.reason == row.reason] for row in refused}


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (STAMP, MOMENT),
        ("2024-12-10T00:01:29.378+00:00", MOMENT),
        ("2024-12-10T00:01:29.378+0000", MOMENT),
        ("2024-12-10T02:01:29.378+0200", MOMENT),
        ("2024-12-10T00:01:29.378", MOMENT),
        (" 2024-12-10 00:01:29.378 ", MOMENT),
        ("2024-12-10T00:01:29.3780009Z", MOMENT),
        ("2024-12-10", datetime(2024, 12, 10, tzinfo=UTC)),
        (1733788889378, MOMENT),
        (1733788889378.0, MOMENT),
        ("1733788889378", MOMENT),
    ],
)
def test_a_timestamp_is_read_in_every_form_that_logs_have(timestamp: Any, moment: datetime) -> None:
    """ISO 8601 with Z, an offset with or without a colon, or none, and milliseconds as a number or digits, are read."""
    assert moment == ubi.moment_of(timestamp)


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (None, "missing"),
        ("", "missing"),
        ("yesterday", "neither ISO 8601"),
        ("2024-13-10T00:00:00Z", "neither ISO 8601"),
        (True, "neither ISO 8601"),
        ([], "neither ISO 8601"),
        ({"$date": 1}, "neither ISO 8601"),
        (1e300, "neither ISO 8601"),
        (10**17, "neither ISO 8601"),
        ("9" * 5000, "neither ISO 8601"),
        ("0001-01-01T00:00:00+14:00", "neither ISO 8601"),
        (1733788889, "before 1995"),
        (0, "before 1995"),
        (-1, "before 1995"),
        ("20241210", "before 1995"),
    ],
)
def test_a_timestamp_that_is_none_is_refused(timestamp: Any, reason: str) -> None:
    """A timestamp that is missing, unreadable, or seconds taken for milliseconds refuses its row, with a reason."""
    with pytest.raises(ubi.RowRefused, match=reason):
        ubi.moment_of(timestamp)


def test_an_event_keeps_everything_that_has_no_field_of_its_own() -> None:
    """What an event has besides its query, action and time stands in `meta` under its own name."""
    attributes = {"object": {"object_id": "o", "price": 5}, "position": {"ordinal": 3}}
    row = an_event(session_id="visit", message=None, event_attributes=attributes)

    event = ubi.event_of(row)

    assert ("", "q", "o", "hover", MOMENT) == (
        event.event_id,
        event.session_id,
        event.object_id,
        event.event_type,
        event.created_at,
    )
    assert {"session_id": "visit", "message": None, "event_attributes": attributes} == event.meta
    assert event.value is None


@pytest.mark.parametrize(
    ("given", "object_id"),
    [("o", "o"), (17, "17"), (17.0, "17"), (1.5, "1.5"), (None, ""), ("  ", ""), (True, ""), ([1], "")],
)
def test_an_object_id_is_text(given: Any, object_id: str) -> None:
    """An object id that was logged as a number becomes text; anything that is no id counts as absent."""
    assert object_id == ubi.event_of(an_event(event_attributes={"object": {"object_id": given}})).object_id


@pytest.mark.parametrize("attributes", [None, [], "x", {}, {"object": None}, {"object": "o"}, {"object": {}}])
def test_an_event_without_an_object_is_about_the_session(attributes: Any) -> None:
    """Attributes of any other shape leave the object empty and are kept as they are."""
    event = ubi.event_of(an_event(event_attributes=attributes))

    assert "" == event.object_id
    assert attributes == event.meta["event_attributes"]


@pytest.mark.parametrize("query_id", [None, "", "  ", [], True])
def test_a_row_without_a_query_id_is_refused(query_id: Any) -> None:
    """Neither a query nor an event can do without the id of its query."""
    with pytest.raises(ubi.RowRefused, match="query_id is missing"):
        ubi.event_of(an_event(query_id=query_id))
    with pytest.raises(ubi.RowRefused, match="query_id is missing"):
        ubi.query_row(a_query(query_id=query_id))


@pytest.mark.parametrize("action", [None, "", " ", 7])
def test_an_event_without_an_action_is_refused_rather_than_taken_for_a_click(action: Any) -> None:
    """The service takes an empty type for a click; a log that names no action does not mean one."""
    with pytest.raises(ubi.RowRefused, match="action_name is missing"):
        ubi.event_of(an_event(action_name=action))


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
def test_text_that_cannot_be_stored_refuses_the_row(text: str) -> None:
    """A NUL or a lone surrogate anywhere in a row refuses it."""
    with pytest.raises(ubi.RowRefused):
        ubi.event_of(an_event(message=text))
    with pytest.raises(ubi.RowRefused):
        ubi.query_row(a_query(application=text))


@pytest.mark.parametrize("atomic", [False, True])
def test_a_query_id_that_cannot_be_stored_refuses_its_row_alone(*, atomic: bool) -> None:
    """A lone surrogate in a query's id refuses the row that names it, and all others go on."""
    log = "".join(f"{json.dumps(row)}\n" for row in (a_query(query_id="\ud800x"), {"query_id": "\ud800"}, a_query()))
    account = LogAccount()

    found = list(UbiRows(Lines(BufferedReader(BytesIO(log.encode())), None), account, atomic=atomic).read())

    assert [1, 2] == [each.line for each in found if isinstance(each, Refusal)]
    assert [3] == [each.rows[0].line for each in found if isinstance(each, Sendable)]
    assert (3, 1, 2) == (account.counts.lines, account.query_rows, account.refused_rows)


def test_a_bounded_part_of_a_refused_query_is_kept() -> None:
    """Of the rows of a query that is refused, as many are told as have room in 1 MiB."""
    rows = [a_query(note="é" * 100_000) for _ in range(20)]
    log = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in [*rows, {"query_id": "q"}])

    found = UbiRows(Lines(BufferedReader(BytesIO(log.encode())), None), LogAccount(), atomic=True).read()
    (refused,) = (each for each in found if isinstance(each, Refusal) and each.what == "query")

    assert [1, 2, 3, 4, 5] == [row.line for row in refused.rows]


def test_events_that_differ_below_a_microsecond_stay_apart() -> None:
    """A time finer than what is stored is kept in `meta`, so that two events are not taken for one."""
    first, second = (ubi.event_of(an_event(timestamp=f"2024-12-10T00:01:29.37812345{digit}Z")) for digit in "67")

    assert first.created_at == second.created_at
    assert first != second


def test_a_large_whole_number_is_kept_as_text() -> None:
    """A whole number beyond 2^53, which a double would round, becomes text with the same digits."""
    row = ubi.object_from_json('{"a": 9007199254740993, "b": 9007199254740992, "c": -90071992547409930000}')

    assert {"a": "9007199254740993", "b": 9007199254740992, "c": "-90071992547409930000"} == row


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', "[1]", "7", "{", '{"a": 1} x', "[" * 100_000])
def test_what_is_not_a_json_object_is_refused(text: str) -> None:
    """A line that is not one JSON object, or uses what JSON lacks, is refused."""
    with pytest.raises(ubi.RowRefused):
        ubi.object_from_json(text)


def test_a_number_too_large_for_a_double_refuses_the_row() -> None:
    """1e999 is JSON and reads as infinity, which is refused."""
    with pytest.raises(ubi.RowRefused, match="finite"):
        ubi.query_row(ubi.object_from_json(json.dumps(a_query())[:-1] + ', "x": 1e999}'))


def test_hits_become_the_results_in_their_order() -> None:
    """The objects that a query row lists are the results, ranked from 0."""
    session = session_of(a_query(query_response_hit_ids=["b", 7, "a"]), shown("z", 0)).session

    assert [("b", 0.0), ("7", 1.0), ("a", 2.0)] == [(item.object_id, item.rank) for item in session.search_results]
    assert "query_response_hit_ids" not in session.search_meta


def test_impressions_stand_in_for_missing_hits() -> None:
    """Without hits the results are what impressions name: by position, then by line, each object once."""
    session = session_of(
        shown("none"),
        shown("d", 10),
        shown("b", 2),
        a_query(),
        shown("c", 2),
        shown("b", 3),
        shown("a", "0"),
        shown(None),
    ).session

    assert ["a", "b", "c", "d", "none"] == [item.object_id for item in session.search_results]
    assert [0.0, 1.0, 2.0, 3.0, 4.0] == [item.rank for item in session.search_results]


def test_other_events_show_nothing() -> None:
    """Only impressions say what was shown: a click is not taken for a result."""
    click = an_event(action_name="click", event_attributes={"object": {"object_id": "o"}})

    assert () == session_of(a_query(), click).session.search_results


def test_a_session_takes_what_it_has_a_field_for_and_keeps_the_rest() -> None:
    """A query's id, text, person and time have fields; everything else stands in `search_meta` under its own name."""
    session = session_of(a_query(application="shop", query_attributes={"a": [1, None]}, query="{}")).session

    assert ("q", "lamp", "c", MOMENT) == (
        session.session_id,
        session.search_query,
        session.user_id,
        session.created_at,
    )
    assert {
        "application": "shop",
        "client_id": "c",
        "query_attributes": {"a": [1, None]},
        "query": "{}",
    } == session.search_meta


@pytest.mark.parametrize(
    ("fields", "user_id"),
    [
        ({"client_id": "c", "user_id": "u"}, "c"),
        ({"client_id": " ", "user_id": "u"}, "u"),
        ({"client_id": 5}, "5"),
        ({"client_id": None, "user_id": ""}, None),
    ],
)
def test_the_person_is_the_client_else_the_user(fields: dict[str, Any], user_id: str | None) -> None:
    """`client_id` says who searched, `user_id` where that is blank."""
    assert user_id == session_of(a_query(**fields)).session.user_id


@pytest.mark.parametrize(
    ("given", "query"), [("lamp", "lamp"), ("", ""), (None, None), (4711, "4711"), ({"a": 1}, {"a": 1}), (True, None)]
)
def test_a_query_is_text_or_structured(given: Any, query: Any) -> None:
    """Text and structured queries are taken as they are, numbers as text."""
    assert query == session_of(a_query(user_query=given)).session.search_query


def test_several_rows_of_a_query_lose_nothing() -> None:
    """The row with most hits leads; of the others stands in `further_rows` what they have otherwise."""
    later = "2024-12-10T00:01:30.000Z"
    session = session_of(
        a_query(query="count", query_response_hit_ids=[], timestamp=later),
        a_query(query="short", query_response_hit_ids=["x"]),
        a_query(query="full", query_response_hit_ids=["a", "b"], timestamp=later),
        a_query(query="full", query_response_hit_ids=["a", "b"], timestamp=later),
        a_query(query="full too", query_response_hit_ids=["c", "d"], timestamp=later),
    ).session

    assert ["a", "b"] == [item.object_id for item in session.search_results]
    assert MOMENT == session.created_at
    assert {
        "client_id": "c",
        "query": "full",
        "timestamp": later,
        "further_rows": [
            {"query": "count", "query_response_hit_ids": []},
            {"query": "short", "query_response_hit_ids": ["x"], "timestamp": STAMP},
            {"query": "full too", "query_response_hit_ids": ["c", "d"]},
        ],
    } == session.search_meta


def test_what_the_leading_row_lacks_comes_from_another() -> None:
    """A query's text and person come from the first row that has them, if the leading one has not."""
    session = session_of(
        a_query(user_query="", client_id="", query_response_hit_ids=["a"]), a_query(user_query="lamp", client_id="c")
    ).session

    assert ("lamp", "c") == (session.search_query, session.user_id)
    assert [{"user_query": "lamp", "client_id": "c"}] == [
        {name: row[name] for name in ("user_query", "client_id")} for row in session.search_meta["further_rows"]
    ]


def test_true_and_one_are_different_content() -> None:
    """A further row that has true where the first has 1 is kept, though Python takes the two for equal."""
    session = session_of(a_query(flag=1), a_query(flag=True)).session

    assert [{"flag": True}] == session.search_meta["further_rows"]
    assert session.search_meta["further_rows"][0]["flag"] is True


def test_further_rows_that_find_no_room_are_counted() -> None:
    """What does not fit into the limit of `search_meta` is left out, and the session says of how many rows."""
    mapped = session_of(*(a_query(query=f"{number:03}{'x' * 20_000}") for number in range(6)))

    assert 3 == mapped.rows_left_out
    assert 3 == mapped.session.search_meta["further_rows_left_out"]
    assert ["001", "002"] == [row["query"][:3] for row in mapped.session.search_meta["further_rows"]]
    assert 64 * 1024 >= len(json.dumps(mapped.session.search_meta, separators=(",", ":")))


def test_plain_and_bulk_form_read_alike() -> None:
    """The rows of a log are the same with and without the action lines of the bulk form."""
    query, event = json.dumps(a_query()), json.dumps(an_event())
    plain = read(f"{query}\n{event}\n".encode())
    bulk = read(f'{{"index":{{"_index":"ubi_queries"}}}}\n{query}\n{{"create":{{}}}}\n{event}'.encode())

    assert [(row.kind, row.fields) for row in plain.rows] == [(row.kind, row.fields) for row in bulk.rows]
    assert lines.LineCounts(lines=4, actions=2) == bulk.counts


def test_bytes_around_the_rows_do_not_matter() -> None:
    """Blank lines, CRLF and a missing last line end change nothing."""
    query = json.dumps(a_query())
    found = read(f"{query}\r\n\r\n   \n{query}".encode())

    assert [(1, query), (4, query)] == [(row.line, row.text) for row in found.rows]
    assert 2 == found.counts.blank
    assert [] == found.refused


def test_lines_that_are_no_rows_are_refused_where_they_stand() -> None:
    """Each refused line is counted once, under its reason and its number."""
    query = json.dumps(a_query()).encode()
    log = [
        b'{"index":{}}',  # 1: dangling
        b'{"index":{}}',
        query,
        b'{"delete":{"_id":"1"}}',  # 4
        query,
        b'{"update":{"_id":"1"}}',  # 6
        b'{"doc":{}}',  # 7
        b"\xff" + query,  # 8
        query.replace(b"lamp", b"\xed\xa0\x80"),  # 9
        b"x" * (lines.LINE_BYTES_MAX + 2),  # 10
        b'{"index":{}}',
        b'{"cut off',  # 12
        b'{"hello":1}',  # 13
        b'{"index":{}}',  # 14: dangling
    ]
    found = read(b"\n".join(log))

    assert [3, 5] == [row.line for row in found.rows]
    assert {
        "an action line without its document": [1, 14],
        "an action that is not one of a log: delete": [4],
        "an action that is not one of a log: update": [6],
        "the document of an action that is not one of a log: update": [7],
        "not UTF-8": [8, 9],
        f"longer than {lines.LINE_BYTES_MAX} bytes": [10],
        "not JSON": [12],
        "neither a query (user_query) nor an event (action_name)": [13],
    } == reasons(found.refused)
    assert lines.LineCounts(lines=14, actions=2) == found.counts
    assert 14 == found.counts.actions + len(found.refused) + len(found.rows)


def test_a_line_of_the_largest_size_is_read() -> None:
    """A line of exactly the limit is a row, with its line end."""
    empty = json.dumps(a_query(x=""))
    query = empty.replace('"x": ""', f'"x": "{"y" * (lines.LINE_BYTES_MAX - len(empty) - 1)}"')

    found = read(f"{query}\n".encode())

    assert (1, 0) == (len(found.rows), len(found.refused))


def test_the_sample_is_the_same_every_time() -> None:
    """The generated log depends on its seed alone."""
    assert sample_log() == sample_log()
    assert sample_log(seed=2) != sample_log(seed=3)


@pytest.mark.parametrize("queries", [1, 2, 200])
def test_the_sample_has_every_trouble_once(queries: int) -> None:
    """The generated log has one repeated query, one event twice, one of an unknown query and one broken line."""
    log = sample_log(queries)
    with spooling() as spool:
        fill(spool, log)
        found = [query_id for query_id in spool.queries() for _ in spool.rows_of(query_id)]
        known = [spooled.event for query_id in spool.queries() for spooled in spool.events_of(query_id)]
        unknown = list(spool.stray_events())

    assert (queries, queries + 1, 1) == (len(set(found)), len(found), len(read(log).refused))
    assert 1 == len(known) - len({event.model_dump_json() for event in known})
    assert 1 == len(unknown)


def test_people_in_the_sample_click_what_they_see_first() -> None:
    """Clicks in the generated log fall off with the position, as they do in real ones."""
    rows = [row for row in read(sample_log(400)).rows if row.fields.get("action_name") == "click"]
    places = [row.fields["event_attributes"]["position"]["ordinal"] for row in rows]

    assert places.count(0) > places.count(4) > places.count(9)
