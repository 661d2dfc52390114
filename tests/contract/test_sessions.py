"""Sessions through the interface, on every backend: register, update, mark, get."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from clickstream import (
    ClickstreamDao,
    RegisteredSession,
    SearchResultItem,
    Session,
    SessionEvent,
    SessionNotFound,
    SessionWithEvents,
    WriteOutcome,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RICH = Session(
    session_id="s",
    search_query={"text": "lamp", "filters": {"price": {"gte": 5}, "colours": ["red", "white"]}},
    search_results=(SearchResultItem(object_id="a", rank=1, meta={"x": 1, "y": 2}), SearchResultItem(object_id="b")),
    search_meta={"app": "shop", "page": 2},
    created_at=NOON,
)


async def registered(dao: ClickstreamDao, *session_ids: str) -> list[RegisteredSession]:
    """New sessions with these ids, one after the other."""
    return [(await dao.register_session(Session(session_id=session_id))).session for session_id in session_ids]


async def found(dao: ClickstreamDao, session_id: str) -> SessionWithEvents:
    session = await dao.get_session(session_id)
    assert session is not None
    return session


async def numbers_in(dao: ClickstreamDao, batch_id: str) -> dict[int, str]:
    """The session ids of a batch by their numbers."""
    return {found.session_number: found.session.session_id async for found in dao.get_batch_sessions(batch_id)}


async def counter_of(dao: ClickstreamDao, batch_id: str) -> int:
    batch = await dao.get_batch(batch_id)
    assert batch is not None
    return batch.session_counter


# --- register -------------------------------------------------------------------------------------------------------


async def test_a_new_session_is_number_one(dao: ClickstreamDao) -> None:
    """The first session registered makes the collecting batch and gets number 1 in it."""
    done = await dao.register_session(Session(session_id="s", search_query="lamp"))

    assert WriteOutcome.INSERTED == done.outcome
    assert 1 == done.session.session_number


async def test_sessions_are_numbered_in_turn(dao: ClickstreamDao) -> None:
    """Sessions registered one after the other get 1, 2, 3 in one batch, which counts them."""
    sessions = await registered(dao, "a", "b", "c")

    assert [1, 2, 3] == [session.session_number for session in sessions]
    assert 1 == len({session.batch_id for session in sessions})
    assert 3 == await counter_of(dao, sessions[0].batch_id)


async def test_registering_answers_with_what_is_stored(dao: ClickstreamDao) -> None:
    """The answer to a registration is the session as every later read gives it."""
    done = await dao.register_session(RICH)
    stored = await found(dao, "s")

    assert done.session == RegisteredSession(
        session=stored.session,
        batch_id=stored.batch_id,
        session_number=stored.session_number,
        registered_at=stored.registered_at,
    )
    assert RICH == done.session.session


async def test_the_server_sets_created_at(dao: ClickstreamDao) -> None:
    """A session that came without created_at has the moment of its registration."""
    done = await dao.register_session(Session(session_id="s"))

    assert done.session.registered_at == done.session.session.created_at
    assert abs(datetime.now(UTC) - done.session.registered_at) < timedelta(minutes=1)


async def test_a_known_id_uses_up_no_number(dao: ClickstreamDao) -> None:
    """Duplicates and conflicts leave no hole: the next new session has the next number."""
    await registered(dao, "a")
    await dao.register_session(Session(session_id="a"))
    await dao.register_session(Session(session_id="a", search_query="other"))
    (after,) = await registered(dao, "b")

    assert 2 == after.session_number
    assert 2 == await counter_of(dao, after.batch_id)


async def test_a_duplicate_changes_nothing_in_the_batch(dao: ClickstreamDao) -> None:
    """A repeated registration leaves the batch as it was, down to its updated_at."""
    (session,) = await registered(dao, "a")
    before = await dao.get_batch(session.batch_id)
    await dao.register_session(Session(session_id="a"))

    assert before == await dao.get_batch(session.batch_id)


async def test_a_duplicate_returns_what_is_stored(dao: ClickstreamDao) -> None:
    """A repeated registration answers DUPLICATE with the first one's place and times."""
    first = await dao.register_session(RICH)
    again = await dao.register_session(RICH)

    assert WriteOutcome.DUPLICATE == again.outcome
    assert first.session == again.session


async def test_a_conflict_returns_what_is_stored(dao: ClickstreamDao) -> None:
    """Other content under a known id answers CONFLICT, and what is stored stays."""
    first = await dao.register_session(RICH)
    other = await dao.register_session(RICH.model_copy(update={"search_query": "chair"}))

    assert WriteOutcome.CONFLICT == other.outcome
    assert first.session == other.session
    assert RICH == (await found(dao, "s")).session


async def test_a_duplicate_after_the_release_makes_no_batch(dao: ClickstreamDao) -> None:
    """A known id stays where it is when its batch has been released, and no new batch is made for it."""
    (first,) = await registered(dao, "a")
    await dao.release_batch("r")
    again = await dao.register_session(Session(session_id="a"))

    assert (WriteOutcome.DUPLICATE, first) == (again.outcome, again.session)
    assert 1 == len((await dao.list_batches()).batches)


async def test_calls_at_once_with_one_id_store_it_once(dao: ClickstreamDao) -> None:
    """Of many registrations of one id at the same time one is INSERTED, the others are DUPLICATE, with one number."""
    done = await asyncio.gather(*(dao.register_session(Session(session_id="s")) for _ in range(20)))

    assert [WriteOutcome.DUPLICATE] * 19 + [WriteOutcome.INSERTED] == sorted(one.outcome for one in done)
    assert [done[0].session] * 20 == [one.session for one in done]
    assert 1 == await counter_of(dao, done[0].session.batch_id)


async def test_calls_at_once_leave_no_gap(dao: ClickstreamDao) -> None:
    """Registrations, repeats, updates and updates of unknown ids at the same time use up exactly 1 to the counter."""
    calls = [dao.register_session(Session(session_id=f"s{place % 30}")) for place in range(60)]
    moves = [dao.update_session(Session(session_id=f"s{place}", search_query="new")) for place in range(0, 60, 2)]
    done = await asyncio.gather(*calls, *moves, return_exceptions=True)
    batch_id = next(one.session.batch_id for one in done if not isinstance(one, BaseException))
    given_out = {one.session.session_number for one in done[:60]} | {
        one.session_number for one in done[60:] if isinstance(one, RegisteredSession)
    }
    failed = [one for one in done if isinstance(one, BaseException)]

    assert {SessionNotFound} == {type(error) for error in failed}
    assert set(range(1, await counter_of(dao, batch_id) + 1)) == given_out
    assert {f"s{place}" for place in range(30)} == set((await numbers_in(dao, batch_id)).values())


# --- what the same content is ---------------------------------------------------------------------------------------


SAME_CONTENT: dict[str, dict[str, object]] = {
    "key order": {"search_meta": {"page": 2, "app": "shop"}},
    "1 and 1.0": {"search_meta": {"app": "shop", "page": 2.0}},
    "both, deep inside": {
        "search_query": {"filters": {"colours": ["red", "white"], "price": {"gte": 5.0}}, "text": "lamp"}
    },
    "time zone": {"created_at": NOON.astimezone(timezone(timedelta(hours=5)))},
    "inside results": {
        "search_results": [{"object_id": "a", "rank": 1.0, "meta": {"y": 2, "x": 1}}, {"object_id": "b"}]
    },
}
OTHER_CONTENT: dict[str, dict[str, object]] = {
    "null query": {"search_query": None},
    "empty query": {"search_query": ""},
    "empty query object": {"search_query": {}},
    "no results": {"search_results": ()},
    "order of results": {"search_results": tuple(reversed(RICH.model_dump()["search_results"]))},
    "no rank": {"search_results": [{"object_id": "a", "meta": {"x": 1, "y": 2}}, {"object_id": "b"}]},
    "text for a number": {"search_meta": {"app": "shop", "page": "2"}},
    "a null more": {"search_meta": {"app": "shop", "page": 2, "more": None}},
    "filter": {"payload_filter": {"a": 1}},
    "sort_by": {"sort_by": {}},
    "user_id": {"user_id": "u"},
    "a microsecond": {"created_at": NOON + timedelta(microseconds=1)},
    "no created_at": {"created_at": None},
    "is_irrelevant": {"is_irrelevant": True},
    "is_payload_search": {"is_payload_search": True},
}


async def outcomes_of(dao: ClickstreamDao, changes: dict[str, dict[str, object]]) -> dict[str, WriteOutcome]:
    """What becomes of RICH with each of these changes, once RICH is stored."""
    await dao.register_session(RICH)
    fields = RICH.model_dump()
    return {
        name: (await dao.register_session(Session.model_validate(fields | change))).outcome
        for name, change in changes.items()
    }


async def test_the_same_content_written_otherwise_is_a_duplicate(dao: ClickstreamDao) -> None:
    """The order of keys, 1 or 1.0 and the time's zone are not content."""
    assert dict.fromkeys(SAME_CONTENT, WriteOutcome.DUPLICATE) == await outcomes_of(dao, SAME_CONTENT)


async def test_any_difference_is_a_conflict(dao: ClickstreamDao) -> None:
    """Every field of a session is content, and nearly the same is not the same."""
    assert dict.fromkeys(OTHER_CONTENT, WriteOutcome.CONFLICT) == await outcomes_of(dao, OTHER_CONTENT)


async def test_true_is_not_one(dao: ClickstreamDao) -> None:
    """A boolean and a number are different content, although Python takes them for equal."""
    await dao.register_session(Session(session_id="s", search_meta={"x": True}))

    assert WriteOutcome.CONFLICT == (await dao.register_session(Session(session_id="s", search_meta={"x": 1}))).outcome


async def test_what_is_stored_sent_back_is_a_duplicate(dao: ClickstreamDao) -> None:
    """A session read back, with the created_at that the server set, is the same content."""
    await dao.register_session(Session(session_id="s", search_query="lamp"))
    again = await dao.register_session((await found(dao, "s")).session)

    assert WriteOutcome.DUPLICATE == again.outcome


async def test_a_retry_after_the_mark_is_a_duplicate(dao: ClickstreamDao) -> None:
    """A session that was marked irrelevant meanwhile is still what its sender sent, and stays marked."""
    await dao.register_session(RICH)
    await dao.mark_session_irrelevant("s")
    retry = await dao.register_session(RICH)

    assert WriteOutcome.DUPLICATE == retry.outcome
    assert retry.session.session.is_irrelevant


async def test_a_marked_session_sent_back_is_a_duplicate(dao: ClickstreamDao) -> None:
    """A marked session, sent as it reads now, is the same content."""
    await dao.register_session(Session(session_id="s"))
    marked = await dao.mark_session_irrelevant("s")

    assert WriteOutcome.DUPLICATE == (await dao.register_session(marked.session)).outcome


# --- update ---------------------------------------------------------------------------------------------------------


async def test_an_update_takes_a_new_number(dao: ClickstreamDao) -> None:
    """An updated session has the next number and can no longer be read under its old one."""
    first, _ = await registered(dao, "a", "b")
    moved = await dao.update_session(Session(session_id="a", search_query="new"))

    assert (first.batch_id, 3) == (moved.batch_id, moved.session_number)
    assert {2: "b", 3: "a"} == await numbers_in(dao, first.batch_id)


async def test_an_update_replaces_the_whole_session(dao: ClickstreamDao) -> None:
    """What the update does not mention is gone: nothing of the old content stays."""
    await dao.register_session(RICH)
    moved = await dao.update_session(Session(session_id="s", created_at=NOON))

    assert Session(session_id="s", created_at=NOON) == moved.session == (await found(dao, "s")).session


async def test_events_stay_with_an_updated_session(dao: ClickstreamDao) -> None:
    """A session keeps its events under its new number."""
    await registered(dao, "a")
    await dao.push_events([SessionEvent(event_id="e", session_id="a", object_id="o")])
    moved = await dao.update_session(Session(session_id="a", search_query="new"))
    (read,) = [one async for one in dao.get_batch_sessions(moved.batch_id)]

    assert (["e"], 1) == ([event.event_id for event in read.events], read.event_count)


async def test_a_repeated_update_changes_nothing(dao: ClickstreamDao) -> None:
    """The same update again answers with the place that the first one gave."""
    await registered(dao, "a")
    moved = await dao.update_session(Session(session_id="a", search_query="new"))

    assert moved == await dao.update_session(Session(session_id="a", search_query="new"))
    assert 2 == await counter_of(dao, moved.batch_id)


async def test_a_repeated_update_leaves_the_batch_as_it_was(dao: ClickstreamDao) -> None:
    """An update that changes nothing leaves the batch's updated_at alone, too."""
    (first,) = await registered(dao, "a")
    before = await dao.get_batch(first.batch_id)
    await dao.update_session(Session(session_id="a"))

    assert before == await dao.get_batch(first.batch_id)


async def test_an_update_with_what_is_stored_changes_nothing(dao: ClickstreamDao) -> None:
    """A session read back from the collecting batch and sent as an update keeps its number."""
    (first,) = await registered(dao, "a")

    assert first == await dao.update_session(first.session)


async def test_an_unknown_session_cannot_be_updated(dao: ClickstreamDao) -> None:
    """An update of an unknown id raises SessionNotFound, names it, stores nothing and makes no batch."""
    with pytest.raises(SessionNotFound) as raised:
        await dao.update_session(Session(session_id="nobody"))

    assert "nobody" == raised.value.resource_name
    assert await dao.get_session("nobody") is None
    assert () == (await dao.list_batches()).batches


async def test_an_update_of_an_unknown_session_uses_up_no_number(dao: ClickstreamDao) -> None:
    """A failed update leaves no hole in the collecting batch."""
    await registered(dao, "a")
    with pytest.raises(SessionNotFound):
        await dao.update_session(Session(session_id="nobody"))
    (after,) = await registered(dao, "b")

    assert 2 == after.session_number


async def test_an_update_after_the_release_moves_to_the_new_batch(dao: ClickstreamDao) -> None:
    """A session of a released batch, once updated, is in the collecting batch and no longer in the released one."""
    old, _ = await registered(dao, "a", "b")
    await dao.release_batch("r")
    (other,) = await registered(dao, "c")
    moved = await dao.update_session(Session(session_id="a", search_query="new"))

    assert (other.batch_id, 2) == (moved.batch_id, moved.session_number)
    assert {2: "b"} == await numbers_in(dao, old.batch_id)
    assert 2 == await counter_of(dao, old.batch_id)


async def test_an_update_makes_the_collecting_batch(dao: ClickstreamDao) -> None:
    """The same content sent as an update after the release moves the session to a new batch, made for it."""
    (old,) = await registered(dao, "a")
    await dao.release_batch("r")
    moved = await dao.update_session(Session(session_id="a"))

    assert old.batch_id != moved.batch_id
    assert 1 == moved.session_number
    assert {1: "a"} == await numbers_in(dao, moved.batch_id)


async def test_after_an_update_the_old_content_is_a_conflict(dao: ClickstreamDao) -> None:
    """Registering the content from before an update is a CONFLICT, that from the update a DUPLICATE."""
    await registered(dao, "a")
    await dao.update_session(Session(session_id="a", search_query="new"))

    assert WriteOutcome.CONFLICT == (await dao.register_session(Session(session_id="a"))).outcome
    assert WriteOutcome.DUPLICATE == (await dao.register_session(Session(session_id="a", search_query="new"))).outcome


# --- mark and get ---------------------------------------------------------------------------------------------------


async def test_marking_sets_the_flag_only(dao: ClickstreamDao) -> None:
    """A marked session keeps its content, its number and its times."""
    first = (await dao.register_session(RICH)).session
    marked = await dao.mark_session_irrelevant("s")
    expected = first.model_copy(update={"session": RICH.model_copy(update={"is_irrelevant": True})})

    assert expected == marked
    assert expected.session == (await found(dao, "s")).session


async def test_marking_again_changes_nothing(dao: ClickstreamDao) -> None:
    """The second mark answers as the first."""
    await registered(dao, "a")

    assert await dao.mark_session_irrelevant("a") == await dao.mark_session_irrelevant("a")


async def test_an_unknown_session_cannot_be_marked(dao: ClickstreamDao) -> None:
    """Marking an unknown id raises SessionNotFound and names it."""
    with pytest.raises(SessionNotFound) as raised:
        await dao.mark_session_irrelevant("nobody")

    assert "nobody" == raised.value.resource_name
    assert await dao.get_session("nobody") is None


async def test_an_unknown_session_reads_as_none(dao: ClickstreamDao) -> None:
    """Where there is no session, get_session returns None, even if events of it have come."""
    await dao.push_events([SessionEvent(event_id="e", session_id="early", object_id="o")])

    assert await dao.get_session("early") is None


async def test_get_session_limits_the_events(dao: ClickstreamDao) -> None:
    """get_session gives the earliest events up to the limit and says how many there are."""
    await registered(dao, "a")
    await dao.push_events(
        [
            SessionEvent(event_id=f"e{place}", session_id="a", object_id="o", created_at=NOON - timedelta(hours=place))
            for place in range(3)
        ]
    )
    for limit in (0, 1, 2, 3, 4, None):
        read = await dao.get_session("a", events_limit=limit)

        assert read is not None
        assert ["e2", "e1", "e0"][:limit] == [event.event_id for event in read.events]
        assert 3 == read.event_count


async def test_get_session_gives_a_hundred_events_unless_told(dao: ClickstreamDao) -> None:
    """Without a limit get_session gives 100 events, and the count says that there are more."""
    await registered(dao, "a")
    await dao.push_events(
        [SessionEvent(event_id=f"e{place:03}", session_id="a", event_type="view") for place in range(101)]
    )
    read = await found(dao, "a")

    assert (100, 101) == (len(read.events), read.event_count)
