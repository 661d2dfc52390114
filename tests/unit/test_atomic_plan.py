"""Sessions that stand or fall with their events, and sessions that are replaced: what the pure planner decides."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from sent import document_of

from clickstream import ClickstreamError, Session, SessionEvent, WriteOutcome
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of
from clickstream_server.storage.mongo.numbering import Intent, Plan, SessionWrite, WriteResult, plan

LOOP = asyncio.BaseEventLoop()
"""Never run: a call carries a future, and a future wants a loop."""
LOOP.close()
NOW = 1_700_000_000_000_000
INSERTED, DUPLICATE, CONFLICT, REJECTED = (
    WriteOutcome.INSERTED,
    WriteOutcome.DUPLICATE,
    WriteOutcome.CONFLICT,
    WriteOutcome.REJECTED,
)


def event(session_id: str, event_id: str, text: str = "lamp") -> Document:
    made = SessionEvent(
        session_id=session_id,
        event_id=event_id,
        object_id="o",
        meta={"text": text},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return document_of(made)


def item(session_id: str, *events: Document, query: str = "lamp", intent: Intent = Intent.REGISTER) -> SessionWrite:
    """A call; its events stand or fall with it."""
    session = Session(session_id=session_id, search_query=query)
    done: asyncio.Future[WriteResult] = asyncio.Future(loop=LOOP)
    return SessionWrite(document_of(session), content_bytes=100, intent=intent, events=events, done=done)


class Store:
    """What the database would hold after each plan."""

    def __init__(self) -> None:
        self.sessions: dict[str, Document] = {}
        self.events: dict[EventKey, Document] = {}
        self.counter = 0

    def take(self, *group: SessionWrite) -> Plan:
        made = plan(group, self.sessions, self.events, collecting="B", now=NOW)
        made.number("B", self.counter + 1)
        self.counter += made.used
        self.sessions |= made.sessions
        self.events |= made.events
        return made


def told(made: Plan) -> list[tuple[WriteOutcome, ...]]:
    """The outcome of each call's session, then those of its events."""
    results = []
    for result in made.results():
        assert not isinstance(result, ClickstreamError)
        results.append((result.outcome, *result.event_outcomes))
    return results


def numbers(made: Plan) -> list[int]:
    return [
        result.stored["session_number"]
        for result in made.results()
        if isinstance(result, WriteResult) and result.stored is not None
    ]


# --- a session stands or falls with its events ----------------------------------------------------------------------


def test_a_new_session_is_stored_with_its_events() -> None:
    """A new session and its new events are all inserted, under one number."""
    made = Store().take(item("a", event("a", "1"), event("a", "2")))

    assert [(INSERTED, INSERTED, INSERTED)] == told(made)
    assert {("a", "1"), ("a", "2")} == set(made.events)
    assert [1] == numbers(made)


def test_a_conflicting_event_brings_the_session_down() -> None:
    """If one event conflicts, nothing of the item is stored; the conflict is told as that, the rest as rejected."""
    store = Store()
    store.events[("a", "2")] = event("a", "2", "other")
    made = store.take(item("a", event("a", "1"), event("a", "2")))

    assert [(REJECTED, REJECTED, CONFLICT)] == told(made)
    assert ({}, {}, 0) == (made.sessions, made.events, made.used)


def test_a_conflicting_session_brings_its_events_down() -> None:
    """If the session conflicts, none of its events is stored."""
    store = Store()
    store.take(item("a", query="sofa"))
    made = store.take(item("a", event("a", "1")))

    assert [(CONFLICT, REJECTED)] == told(made)
    assert ({}, {}, 0) == (made.sessions, made.events, made.used)


def test_one_that_falls_leaves_no_gap() -> None:
    """An item that falls takes no number, and its neighbours are stored under consecutive ones."""
    store = Store()
    store.events[("b", "1")] = event("b", "1", "other")
    made = store.take(item("a", event("a", "1")), item("b", event("b", "1")), item("c", event("c", "1")))

    assert [(INSERTED, INSERTED), (REJECTED, CONFLICT), (INSERTED, INSERTED)] == told(made)
    assert [1, 2] == [made.sessions[name]["session_number"] for name in ("a", "c")]
    assert 2 == made.used


def test_a_known_session_takes_in_new_events() -> None:
    """A session that is stored already is a duplicate, takes no number, and its new events are stored."""
    store = Store()
    store.take(item("a", event("a", "1")))
    made = store.take(item("a", event("a", "1"), event("a", "2")))

    assert [(DUPLICATE, DUPLICATE, INSERTED)] == told(made)
    assert ({("a", "2")}, 0) == (set(made.events), made.used)


def test_an_event_twice_in_an_item_is_a_duplicate() -> None:
    """The same event twice in one item is stored once: inserted, and a duplicate of that."""
    made = Store().take(item("a", event("a", "1"), event("a", "1")))

    assert [(INSERTED, INSERTED, DUPLICATE)] == told(made)
    assert {("a", "1")} == set(made.events)


def test_two_contents_of_an_event_in_an_item_conflict() -> None:
    """Two events of one id and different content in one item conflict, so nothing of the item is stored."""
    made = Store().take(item("a", event("a", "1", "lamp"), event("a", "1", "sofa")))

    assert [(REJECTED, REJECTED, CONFLICT)] == told(made)
    assert ({}, {}, 0) == (made.sessions, made.events, made.used)


def test_an_item_twice_in_a_group_is_a_duplicate() -> None:
    """The same item twice in a group takes one number, and everything of the second is a duplicate."""
    made = Store().take(item("a", event("a", "1")), item("a", event("a", "1")))

    assert [(INSERTED, INSERTED), (DUPLICATE, DUPLICATE)] == told(made)
    assert 1 == made.used


def test_an_item_is_judged_by_those_before_it_in_the_group() -> None:
    """An event that an earlier item of the group stores conflicts with other content of a later item."""
    made = Store().take(
        item("a", event("a", "1")), item("a", event("a", "2"), event("a", "1", "other")), item("b", event("b", "1"))
    )

    assert [(INSERTED, INSERTED), (REJECTED, REJECTED, CONFLICT), (INSERTED, INSERTED)] == told(made)
    assert {("a", "1"), ("b", "1")} == set(made.events)


def test_one_that_fell_leaves_nothing_for_those_after_it() -> None:
    """What an item would have stored had it not fallen is no duplicate for a later item of the group."""
    store = Store()
    store.events[("a", "2")] = event("a", "2", "other")
    made = store.take(item("a", event("a", "1"), event("a", "2")), item("a", event("a", "1")))

    assert [(REJECTED, REJECTED, CONFLICT), (INSERTED, INSERTED)] == told(made)


# --- replacing ------------------------------------------------------------------------------------------------------


def test_replacing_inserts_what_is_new() -> None:
    """An unknown session under REPLACE is stored like any other."""
    made = Store().take(item("a", event("a", "1"), intent=Intent.REPLACE))

    assert [(INSERTED, INSERTED)] == told(made)
    assert [1] == numbers(made)


def test_replacing_moves_a_session_with_other_content() -> None:
    """A known session of other content is replaced under the next number of the collecting batch."""
    store = Store()
    store.take(item("a", query="sofa"), item("b"))
    made = store.take(item("a", query="lamp", intent=Intent.REPLACE))

    assert [(INSERTED,)] == told(made)
    assert [3] == numbers(made)
    assert "lamp" == made.sessions["a"]["search_query"]


def test_replacing_leaves_the_same_content_where_it_is() -> None:
    """Unlike an update, REPLACE does not move a session of the same content out of a sealed batch."""
    store = Store()
    store.take(item("a"))
    store.sessions["a"] |= {"batch_id": "SEALED", "session_number": 7}
    made = store.take(item("a", intent=Intent.REPLACE))

    assert [(DUPLICATE,)] == told(made)
    assert [7] == numbers(made)
    assert ({}, 0) == (made.sessions, made.used)


def test_replacing_an_event_leaves_its_session() -> None:
    """An event of other content is replaced while its session, which is the same, keeps its number."""
    store = Store()
    store.take(item("a", event("a", "1", "old")))
    made = store.take(item("a", event("a", "1", "new"), intent=Intent.REPLACE))

    assert [(DUPLICATE, INSERTED)] == told(made)
    assert {"text": "new"} == made.events[("a", "1")]["meta"]
    assert ({}, 0) == (made.sessions, made.used)


def test_replacing_again_changes_nothing() -> None:
    """The same REPLACE again writes nothing and takes no number."""
    store = Store()
    store.take(item("a", event("a", "1", "old"), query="old"))
    again = [item("a", event("a", "1", "new"), query="new", intent=Intent.REPLACE)]
    store.take(*again)
    made = store.take(*again)

    assert [(DUPLICATE, DUPLICATE)] == told(made)
    assert ({}, {}, 0) == (made.sessions, made.events, made.used)


def test_of_two_replacements_in_a_group_the_last_stays() -> None:
    """Two contents of one session in a group are stored one after the other: the later one stays, without a gap."""
    store = Store()
    made = store.take(
        item("a", query="one", intent=Intent.REPLACE), item("a", query="two", intent=Intent.REPLACE), item("b")
    )
    stored = sorted(document["session_number"] for document in store.sessions.values())

    assert "two" == store.sessions["a"]["search_query"]
    assert stored[-1] == made.used


# --- in general -----------------------------------------------------------------------------------------------------

events_of = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["lamp", "sofa"])), max_size=3)
wanted = st.tuples(st.sampled_from("abc"), st.sampled_from(["lamp", "sofa"]), events_of)


@given(first=st.lists(wanted, max_size=4), group=st.lists(wanted, max_size=6))
def test_a_group_is_as_one_call_after_the_other(
    first: list[tuple[str, str, list[tuple[str, str]]]], group: list[tuple[str, str, list[tuple[str, str]]]]
) -> None:
    """A group comes to the same outcomes, documents and numbers as its items each in a group of its own."""

    def items(given_items: list[tuple[str, str, list[tuple[str, str]]]]) -> list[SessionWrite]:
        return [
            item(session_id, *(event(session_id, *of) for of in events), query=query)
            for session_id, query, events in given_items
        ]

    together, apart = Store(), Store()
    together.take(*items(first))
    apart.take(*items(first))
    outcomes = told(together.take(*items(group)))

    assert [told(apart.take(one))[0] for one in items(group)] == outcomes
    assert (apart.sessions, apart.events, apart.counter) == (together.sessions, together.events, together.counter)


@given(group=st.lists(wanted, max_size=8))
def test_an_item_is_stored_whole_or_not_at_all(group: list[tuple[str, str, list[tuple[str, str]]]]) -> None:
    """Outcomes of one item are never mixed, and what is told as inserted is as much as was written."""
    made = Store().take(
        *(
            item(session_id, *(event(session_id, *of) for of in events), query=query)
            for session_id, query, events in group
        )
    )
    stands, falls = {INSERTED, DUPLICATE}, {CONFLICT, REJECTED}
    outcomes = told(made)

    assert all(set(one) <= stands or set(one) <= falls for one in outcomes)
    assert len(made.sessions) == sum(one[0] is INSERTED for one in outcomes)
    assert len(made.events) == sum(outcome is INSERTED for one in outcomes for outcome in one[1:])
    assert set(made.events) == {event_key_of(document) for document in made.events.values()}
