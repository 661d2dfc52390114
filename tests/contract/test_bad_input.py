"""Bad input, on every backend: InvalidField with the field's path, and nothing stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clickstream import (
    ClickstreamDao,
    InvalidField,
    Money,
    SearchResultItem,
    Session,
    SessionBatchStatus,
    SessionEvent,
    WriteOutcome,
)

LONG = "x" * 257
FULL = "x" * 256


async def paths_of(refused: Awaitable[Any]) -> list[str]:
    """The paths of the fields for which the call is refused."""
    with pytest.raises(InvalidField) as raised:
        await refused
    assert all(violation.description for violation in raised.value.violations)
    assert all(violation.path in raised.value.message for violation in raised.value.violations[:3])
    return [violation.path for violation in raised.value.violations]


async def read(pages: Any) -> list[Any]:
    return [page async for page in pages]


def event(**fields: Any) -> SessionEvent:
    return SessionEvent(**{"event_id": "e", "session_id": "s", "object_id": "o", **fields})


# --- ids and numbers of requests ------------------------------------------------------------------------------------

Call = Callable[[ClickstreamDao, str], Awaitable[Any]]
ID_CALLS: dict[str, tuple[str, Call]] = {
    "register": ("session.session_id", lambda dao, value: dao.register_session(Session(session_id=value))),
    "update": ("session.session_id", lambda dao, value: dao.update_session(Session(session_id=value))),
    "mark": ("session_id", lambda dao, value: dao.mark_session_irrelevant(value)),
    "get session": ("session_id", lambda dao, value: dao.get_session(value)),
    "get batch": ("batch_id", lambda dao, value: dao.get_batch(value)),
    "read": ("batch_id", lambda dao, value: read(dao.get_batch_pages(value))),
    "release": ("release_id", lambda dao, value: dao.release_batch(value)),
    "status": ("batch_id", lambda dao, value: dao.update_batch_status(value, SessionBatchStatus.ARCHIVED)),
}


async def test_bad_ids_are_refused(dao: ClickstreamDao) -> None:
    """Every call refuses an empty, a blank and a too long id by the name of its field, and nothing is stored."""
    got = {
        (name, value[:5]): await paths_of(call(dao, value))
        for name, (_, call) in ID_CALLS.items()
        for value in ("", " \t\n\u2003", LONG)
    }

    assert {key: [ID_CALLS[key[0]][0]] for key in got} == got
    assert () == (await dao.list_batches()).batches


@pytest.mark.parametrize("value", ["a\x00b", "a\ud800"], ids=["NUL", "lone surrogate"])
async def test_ids_that_are_no_text_are_refused(dao: ClickstreamDao, value: str) -> None:
    """An id with NUL or a lone surrogate is refused by the name of its field wherever an id is all that is sent."""
    calls = {name: found for name, found in ID_CALLS.items() if name not in {"register", "update"}}
    got = {name: await paths_of(call(dao, value)) for name, (_, call) in calls.items()}

    assert {name: [path] for name, (path, _) in calls.items()} == got


async def test_ids_of_full_length_are_taken(dao: ClickstreamDao) -> None:
    """Every id may have exactly 256 characters, whatever they take in bytes."""
    wide = "\U0001f600" * 256
    results = (SearchResultItem(object_id=wide),)
    done = await dao.register_session(Session(session_id=wide, user_id=wide, search_results=results))
    await dao.push_events([event(event_id=wide, session_id=wide, object_id=wide, event_type="y" * 64)])
    found = await dao.get_session(wide)
    marked = await dao.mark_session_irrelevant(wide)
    released = await dao.release_batch(wide)

    assert WriteOutcome.INSERTED == done.outcome
    assert found is not None
    assert 1 == found.event_count
    assert (wide, wide) == (marked.session.session_id, released.batch.release_id)
    assert await dao.get_batch(FULL) is None


@pytest.mark.parametrize("before", ["", "x", "xx", "xxx"])
async def test_wide_ids_are_known_again(dao: ClickstreamDao, before: str) -> None:
    """Long ids of several bytes a character, wherever MongoDB cuts them in its errors, come again as duplicates."""
    wide = before + "\U0001f600" * 200
    told = []
    for _ in range(2):
        done = await dao.register_session(Session(session_id=wide))
        pushed = await dao.push_events([event(event_id=wide, session_id=wide, object_id=wide)])
        released = await dao.release_batch(wide)
        told.append((done.outcome, pushed.inserted, pushed.duplicates, released.already_released))

    assert [(WriteOutcome.INSERTED, 1, 0, False), (WriteOutcome.DUPLICATE, 0, 1, True)] == told


async def test_negative_numbers_are_refused(dao: ClickstreamDao) -> None:
    """A negative limit, size or number is refused by its name."""
    await dao.register_session(Session(session_id="s"))  # for the call that follows what collects
    got = [
        await paths_of(dao.get_session("s", events_limit=-1)),
        await paths_of(read(dao.get_batch_pages("b", after_number=-1))),
        await paths_of(read(dao.get_batch_pages("b", limit=-1))),
        await paths_of(read(dao.get_batch_pages("b", events_limit=-1))),
        await paths_of(read(dao.get_batch_pages("", follow=True, limit=-1))),
        await paths_of(dao.list_batches(page_size=-1)),
    ]

    assert [["events_limit"], ["after_number"], ["limit"], ["events_limit"], ["limit"], ["page_size"]] == got


BAD_TOKENS = [
    "nonsense",
    "é",
    "AAAA",
    "MTIz",  # 123
    "Og==",  # :
    "bm93OmI=",  # now:b
    "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Onh5eg==",  # 999999999999999999999999:xyz
    "LTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Onh5eg==",  # the same, negative
    "MTI6/w==",
]


async def test_a_bad_page_token_is_refused(dao: ClickstreamDao) -> None:
    """A token that the service never gave out is refused by its name."""
    assert [["page_token"]] * len(BAD_TOKENS) == [
        await paths_of(dao.list_batches(page_token=token)) for token in BAD_TOKENS
    ]


async def test_a_page_token_of_another_list_is_refused(dao: ClickstreamDao) -> None:
    """A token goes with the statuses that it was given out for, in any order; another list would leave out batches."""
    for number in range(3):
        await dao.register_session(Session(session_id=f"s{number}"))
        await dao.release_batch(f"r{number}")
    both = [SessionBatchStatus.RELEASED, SessionBatchStatus.ARCHIVED]
    of_all = (await dao.list_batches(page_size=1)).next_page_token
    of_both = (await dao.list_batches(statuses=both, page_size=1)).next_page_token

    assert ["page_token"] == await paths_of(dao.list_batches(statuses=both, page_token=of_all))
    assert ["page_token"] == await paths_of(dao.list_batches(page_token=of_both))
    assert ["page_token"] == await paths_of(dao.list_batches(statuses=both[:1], page_token=of_both))
    assert 2 == len((await dao.list_batches(statuses=[*both[::-1], *both], page_token=of_both)).batches)


# --- sessions -------------------------------------------------------------------------------------------------------


def in_future(**ahead: float) -> datetime:
    return datetime.now(UTC) + timedelta(**ahead)


BAD_SESSIONS: dict[str, dict[str, Any]] = {
    "session.user_id": {"user_id": " "},
    "session.search_results[1].object_id": {"search_results": [{"object_id": "a"}, {"object_id": ""}]},
    "session.search_results[0].object_id": {"search_results": [{"object_id": LONG}]},
    "session.search_results": {"search_results": [{"object_id": "a"}] * 1001},
    "session.search_meta": {"search_meta": {"t": "x" * 65_536}},
    "session.payload_filter": {"payload_filter": {"t": "é" * 32_768}},
    "session.search_results[0].meta": {"search_results": [{"object_id": "a", "meta": {"t": "x" * 65_536}}]},
    "session": {"search_query": "x" * (1024 * 1024)},
}


async def test_bad_sessions_are_refused(dao: ClickstreamDao) -> None:
    """A session with a field past its limit is refused by that field's path, registered or updated, and not stored."""
    got = {}
    for path, fields in BAD_SESSIONS.items():
        session = Session.model_validate({"session_id": "s", **fields})
        got[path] = [await paths_of(dao.register_session(session)), await paths_of(dao.update_session(session))]

    assert {path: [[path], [path]] for path in BAD_SESSIONS} == got
    assert await dao.get_session("s") is None
    assert () == (await dao.list_batches()).batches


async def test_everything_that_is_wrong_is_named(dao: ClickstreamDao) -> None:
    """A caller learns of all that is wrong with a session at once."""
    session = Session(session_id=LONG, user_id="", search_results=(SearchResultItem(object_id=" "),))

    assert ["session.session_id", "session.user_id", "session.search_results[0].object_id"] == await paths_of(
        dao.register_session(session)
    )


async def test_very_many_violations_are_told_in_short(dao: ClickstreamDao) -> None:
    """A session with a thousand bad results is refused with the first of them named."""
    results = tuple(SearchResultItem(object_id=" ") for _ in range(1000))
    paths = await paths_of(dao.register_session(Session(session_id="s", search_results=results)))

    assert [f"session.search_results[{place}].object_id" for place in range(10)] == paths[:10]


async def test_a_bad_update_leaves_what_is_stored(dao: ClickstreamDao) -> None:
    """A refused update changes nothing of the session, and uses up no number."""
    before = (await dao.register_session(Session(session_id="s"))).session
    await paths_of(dao.update_session(Session(session_id="s", user_id="")))
    after = await dao.get_session("s")

    assert after is not None
    assert (before.session, 1) == (after.session, after.session_number)
    assert 2 == (await dao.register_session(Session(session_id="t"))).session.session_number


async def test_the_future_is_refused(dao: ClickstreamDao) -> None:
    """A created_at more than five minutes ahead is refused, for sessions and events; four minutes are taken."""
    ahead = in_future(minutes=6)
    soon = in_future(minutes=4)

    assert ["session.created_at"] == await paths_of(dao.register_session(Session(session_id="s", created_at=ahead)))
    assert ["events[0].created_at"] == await paths_of(dao.push_events([event(created_at=ahead)]))
    assert await dao.get_session("s") is None
    assert soon == (await dao.register_session(Session(session_id="s", created_at=soon))).session.session.created_at
    assert 1 == (await dao.push_events([event(created_at=soon)])).inserted


async def test_the_end_of_time_is_refused(dao: ClickstreamDao) -> None:
    """The last moment of the year 9999 is in the future, and no accident."""
    last = datetime.max.replace(tzinfo=UTC)

    assert ["session.created_at"] == await paths_of(dao.register_session(Session(session_id="s", created_at=last)))


# --- events ---------------------------------------------------------------------------------------------------------

BAD_EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("event_id", {"event_id": " "}),
    ("event_id", {"event_id": LONG}),
    ("session_id", {"session_id": ""}),
    ("session_id", {"session_id": " "}),
    ("session_id", {"session_id": LONG}),
    ("object_id", {"object_id": ""}),
    ("object_id", {"object_id": "", "event_type": ""}),
    ("object_id", {"object_id": LONG}),
    ("object_id", {"object_id": " ", "event_type": "view"}),
    ("event_type", {"event_type": " "}),
    ("event_type", {"event_type": "x" * 65}),
    ("created_at", {"event_id": ""}),
    ("meta", {"meta": {"t": "x" * 65_536}}),
    ("value.currency_code", {"value": {"currency_code": "EUX", "amount": "1"}}),
    ("value.currency_code", {"value": {"currency_code": "eur", "amount": "1"}}),
    ("value.currency_code", {"value": {"currency_code": "", "amount": "1"}}),
]


async def test_bad_events_are_refused(dao: ClickstreamDao) -> None:
    """A call of which every event is invalid is refused by the fields' paths, and nothing is stored."""
    events = [event(**fields) for _, fields in BAD_EVENTS]

    assert [f"events[{place}].{path}" for place, (path, _) in enumerate(BAD_EVENTS)] == await paths_of(
        dao.push_events(events)
    )
    await dao.register_session(Session(session_id="s"))
    found = await dao.get_session("s")
    assert found is not None
    assert 0 == found.event_count


async def test_each_bad_event_names_its_field(dao: ClickstreamDao) -> None:
    """Beside a good event, each bad one is rejected with a message that begins with its field."""
    result = await dao.push_events([event(), *[event(**fields) for _, fields in BAD_EVENTS]])

    assert (1, len(BAD_EVENTS)) == (result.inserted, result.rejected)
    assert [path for path, _ in BAD_EVENTS] == [failure.message.split(":")[0] for failure in result.failures]


async def test_no_events_are_refused(dao: ClickstreamDao) -> None:
    """A call without events is refused."""
    assert ["events"] == await paths_of(dao.push_events([]))


async def test_currencies_past_and_present_are_known(dao: ClickstreamDao) -> None:
    """Money in any currency of ISO 4217 is taken."""
    codes = ["EUR", "USD", "JPY", "CHF", "KWD", "XAU", "XXX", "BYR", "HRK", "MRO", "STD", "VEF"]
    events = [
        event(event_id=code, value=Money.model_validate({"currency_code": code, "amount": "1"})) for code in codes
    ]

    assert len(codes) == (await dao.push_events(events)).inserted
