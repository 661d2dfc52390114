"""Reading a batch through the interface, on every backend: order, resuming, limits, the end, following."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from clickstream import (
    BatchNotFound,
    ClickstreamDao,
    NoCollectingBatch,
    Session,
    SessionBatchStatus,
    SessionEvent,
    SessionPage,
    SessionWithEvents,
)
from clickstream_server.storage.mongo import reader
from harness import PATIENCE_S

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def filled(dao: ClickstreamDao, count: int, first: int = 1) -> str:
    """A collecting batch with `count` sessions more, named by their numbers; its id."""
    done = [
        await dao.register_session(Session(session_id=f"s{number}", is_irrelevant=number % 3 == 0))
        for number in range(first, first + count)
    ]
    return done[0].session.batch_id


async def pages_of(dao: ClickstreamDao, batch_id: str, **asked: Any) -> list[SessionPage]:
    return [page async for page in dao.get_batch_pages(batch_id, **asked)]


async def sessions_of(dao: ClickstreamDao, batch_id: str, **asked: Any) -> list[SessionWithEvents]:
    return [session async for session in dao.get_batch_sessions(batch_id, **asked)]


async def numbers_of(dao: ClickstreamDao, batch_id: str, **asked: Any) -> list[int]:
    return [session.session_number for session in await sessions_of(dao, batch_id, **asked)]


async def next_page(pages: AsyncGenerator[SessionPage, None]) -> SessionPage:
    """The next page, awaited with patience but not for ever."""
    async with asyncio.timeout(PATIENCE_S):
        return await anext(pages)


async def next_sessions(pages: AsyncGenerator[SessionPage, None]) -> SessionPage:
    """The next page that is more than a heartbeat."""
    while True:
        page = await next_page(pages)
        if page.sessions or page.sealed:
            return page


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few sessions to a page, so that ten sessions are many pages."""
    monkeypatch.setattr(reader, "FIRST_PAGE_SESSIONS", 1)
    monkeypatch.setattr(reader, "PAGE_SESSIONS", 3)


@pytest.fixture
def lively(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats come at once."""
    monkeypatch.setattr(reader, "HEARTBEAT_S", 0.05)


# --- what comes, and in what order ----------------------------------------------------------------------------------


async def test_sessions_come_by_number(dao: ClickstreamDao, small_pages: None) -> None:
    """All sessions of the batch come once, by ascending number, over as many pages as it takes."""
    batch_id = await filled(dao, 10)

    assert list(range(1, 11)) == await numbers_of(dao, batch_id)


async def test_a_session_comes_as_get_session_gives_it(dao: ClickstreamDao) -> None:
    """Read in its batch, a session is what get_session returns, events and all."""
    batch_id = await filled(dao, 2)
    await dao.push_events(
        [
            SessionEvent(event_id="b", session_id="s1", object_id="o", created_at=NOON, meta={"x": 1}),
            SessionEvent(event_id="a", session_id="s1", object_id="o", created_at=NOON),
            SessionEvent(event_id="z", session_id="s1", event_type="view", created_at=NOON - timedelta(days=1)),
        ]
    )
    expected = [await dao.get_session("s1"), await dao.get_session("s2")]

    assert expected == await sessions_of(dao, batch_id)
    assert ["z", "a", "b"] == [event.event_id for event in (await sessions_of(dao, batch_id))[0].events]


async def test_only_this_batch_comes(dao: ClickstreamDao) -> None:
    """Sessions of another batch, and those that an update moved there, do not come."""
    old = await filled(dao, 3)
    await dao.release_batch("r")
    new = await filled(dao, 2, first=4)
    await dao.update_session(Session(session_id="s2", search_query="new"))

    assert ["s1", "s3"] == [found.session.session_id for found in await sessions_of(dao, old)]
    assert ["s4", "s5", "s2"] == [found.session.session_id for found in await sessions_of(dao, new)]


async def test_resuming_loses_and_repeats_nothing(dao: ClickstreamDao, small_pages: None) -> None:
    """From every number, after_number gives exactly the sessions above it."""
    batch_id = await filled(dao, 8)

    for after in range(10):
        assert list(range(after + 1, 9)) == await numbers_of(dao, batch_id, after_number=after)


async def test_resuming_at_every_page(dao: ClickstreamDao, small_pages: None) -> None:
    """A reader that reconnects after every single page sees every session once."""
    batch_id = await filled(dao, 8)
    seen: list[int] = []
    after = 0
    for _ in range(20):
        async with aclosing(dao.get_batch_pages(batch_id, after_number=after, exclude_irrelevant=True)) as pages:
            page = await next_page(pages)
        seen += [found.session_number for found in page.sessions]
        if after == page.last_number:
            break
        after = page.last_number

    assert [1, 2, 4, 5, 7, 8] == seen
    assert 8 == after


async def test_a_hole_left_by_an_update_is_passed(dao: ClickstreamDao, small_pages: None) -> None:
    """Reading passes over numbers whose sessions were moved on, at the start, in the middle and at the end."""
    batch_id = await filled(dao, 9)
    await dao.release_batch("r")
    for number in (1, 4, 5, 6, 9):
        await dao.update_session(Session(session_id=f"s{number}", search_query="new"))
    pages = await pages_of(dao, batch_id)

    assert [2, 3, 7, 8] == [found.session_number for page in pages for found in page.sessions]
    assert (9, True) == (pages[-1].last_number, pages[-1].sealed)


async def test_the_limit_counts_sessions(dao: ClickstreamDao, small_pages: None) -> None:
    """`limit` sessions come at most, 0 being all, and the reader learns where to go on."""
    batch_id = await filled(dao, 8)
    for limit, expected in {0: 8, 1: 1, 3: 3, 4: 4, 8: 8, 9: 8}.items():
        pages = await pages_of(dao, batch_id, limit=limit)

        assert list(range(1, expected + 1)) == [found.session_number for page in pages for found in page.sessions]
        assert expected == pages[-1].last_number


async def test_the_limit_counts_what_comes(dao: ClickstreamDao, small_pages: None) -> None:
    """Sessions that are left out as irrelevant do not count towards the limit."""
    batch_id = await filled(dao, 8)

    assert [2, 4, 5] == await numbers_of(dao, batch_id, after_number=1, limit=3, exclude_irrelevant=True)


async def test_irrelevant_sessions_can_be_left_out(dao: ClickstreamDao) -> None:
    """Sessions that came irrelevant or were marked so are left out only when asked, and an update brings them back."""
    batch_id = await filled(dao, 6)
    await dao.mark_session_irrelevant("s1")
    assert [1, 2, 3, 4, 5, 6] == await numbers_of(dao, batch_id)
    assert [2, 4, 5] == await numbers_of(dao, batch_id, exclude_irrelevant=True)
    await dao.update_session(Session(session_id="s3", is_irrelevant=False))

    assert [2, 4, 5, 7] == await numbers_of(dao, batch_id, exclude_irrelevant=True)


async def test_the_events_limit_is_never_silent(dao: ClickstreamDao) -> None:
    """The earliest `events_limit` events of each session come, unset being all, and event_count says how many exist."""
    batch_id = await filled(dao, 3)
    events = [
        SessionEvent(event_id=f"e{place}", session_id="s1", object_id="o", created_at=NOON - timedelta(hours=place))
        for place in range(3)
    ]
    await dao.push_events([*events, SessionEvent(event_id="e", session_id="s2", object_id="o")])
    for limit in (None, 0, 1, 2, 3, 4):
        read = await sessions_of(dao, batch_id, events_limit=limit)

        assert [["e2", "e1", "e0"][:limit], ["e"][:limit], []] == [
            [event.event_id for event in found.events] for found in read
        ]
        assert [3, 1, 0] == [found.event_count for found in read]


async def test_without_a_limit_all_events_come(dao: ClickstreamDao) -> None:
    """A batch is read with all events of a session, even more than get_session's hundred."""
    batch_id = await filled(dao, 1)
    await dao.push_events([SessionEvent(event_id=str(place), session_id="s1", object_id="o") for place in range(1500)])
    (read,) = await sessions_of(dao, batch_id)
    (few,) = await sessions_of(dao, batch_id, events_limit=3)

    assert (1500, 1500) == (len(read.events), read.event_count)
    assert (read.events[:3], 1500) == (few.events, few.event_count)


async def test_large_events_do_not_block_a_small_limit(dao: ClickstreamDao) -> None:
    """A session with more events than fit into a message can be read with a small events_limit."""
    batch_id = await filled(dao, 1)
    text = "x" * 60_000
    for start in range(0, 300, 100):
        await dao.push_events(
            [
                SessionEvent(event_id=f"{place:03}", session_id="s1", object_id="o", created_at=NOON, meta={"t": text})
                for place in range(start, start + 100)
            ]
        )
    (read,) = await sessions_of(dao, batch_id, events_limit=2)

    assert (["000", "001"], 300) == ([event.event_id for event in read.events], read.event_count)


# --- the end --------------------------------------------------------------------------------------------------------


async def test_a_collecting_batch_is_not_sealed(dao: ClickstreamDao, small_pages: None) -> None:
    """The last page of a batch that collects says so, with the last number given out."""
    pages = await pages_of(dao, await filled(dao, 5))

    assert {False} == {page.sealed for page in pages}
    assert 5 == pages[-1].last_number


async def test_only_the_last_page_is_sealed(dao: ClickstreamDao, small_pages: None) -> None:
    """Of a released batch the last page alone is sealed, and last_number goes up from page to page."""
    batch_id = await filled(dao, 8)
    await dao.release_batch("r")
    pages = await pages_of(dao, batch_id)
    lasts = [page.last_number for page in pages]

    assert [False] * (len(pages) - 1) + [True] == [page.sealed for page in pages]
    assert sorted(lasts) == lasts
    assert 8 == lasts[-1]


async def test_a_limit_before_the_end_is_not_sealed(dao: ClickstreamDao, small_pages: None) -> None:
    """A reading that its limit ended is not sealed while more would come."""
    batch_id = await filled(dao, 5)
    await dao.release_batch("r")

    assert not (await pages_of(dao, batch_id, limit=4))[-1].sealed


async def test_every_status_but_collecting_is_sealed(dao: ClickstreamDao) -> None:
    """A batch in any later status reads as sealed, and following it ends at once."""
    batch_id = await filled(dao, 2)
    for status in set(SessionBatchStatus) - {SessionBatchStatus.COLLECTING}:
        await dao.update_batch_status(batch_id, status)
        async with asyncio.timeout(PATIENCE_S):
            pages = await pages_of(dao, batch_id, follow=True)

        assert (2, True) == (pages[-1].last_number, pages[-1].sealed)


@pytest.mark.parametrize("after", [3, 7])
async def test_there_is_always_a_page(dao: ClickstreamDao, after: int) -> None:
    """Where nothing is left to read there is one empty page, which never goes back behind after_number."""
    batch_id = await filled(dao, 3)
    (page,) = await pages_of(dao, batch_id, after_number=after)
    await dao.release_batch("r")
    (sealed,) = await pages_of(dao, batch_id, after_number=after)

    assert ((), after, False) == (page.sessions, page.last_number, page.sealed)
    assert ((), after, True) == (sealed.sessions, sealed.last_number, sealed.sealed)


async def test_a_batch_of_irrelevant_sessions_has_a_page(dao: ClickstreamDao) -> None:
    """If all sessions are left out, one empty page brings the reader to the batch's last number."""
    await dao.register_session(Session(session_id="a", is_irrelevant=True))
    done = await dao.register_session(Session(session_id="b", is_irrelevant=True))
    (page,) = await pages_of(dao, done.session.batch_id, exclude_irrelevant=True)

    assert ((), 2) == (page.sessions, page.last_number)


@pytest.mark.parametrize("follow", [False, True])
async def test_an_unknown_batch_cannot_be_read(dao: ClickstreamDao, follow: bool) -> None:
    """Reading an unknown batch raises BatchNotFound and names it."""
    with pytest.raises(BatchNotFound) as raised:
        await pages_of(dao, "nothing", follow=follow)

    assert "nothing" == raised.value.resource_name


# --- follow ---------------------------------------------------------------------------------------------------------


async def test_following_brings_new_sessions(dao: ClickstreamDao) -> None:
    """A reader that follows sees sessions as they are registered, and the stream ends sealed after the release."""
    batch_id = await filled(dao, 2)
    async with aclosing(dao.get_batch_pages(batch_id, follow=True)) as pages:
        assert ["s1", "s2"] == [found.session.session_id for found in (await next_page(pages)).sessions]
        await filled(dao, 1, first=3)
        third = await next_sessions(pages)
        assert (["s3"], 3, False) == (
            [found.session.session_id for found in third.sessions],
            third.last_number,
            third.sealed,
        )
        await dao.release_batch("r")
        last = await next_sessions(pages)
        assert ((), 3, True) == (last.sessions, last.last_number, last.sealed)
        with pytest.raises(StopAsyncIteration):
            await next_page(pages)


async def test_following_the_batch_that_collects_now(dao: ClickstreamDao) -> None:
    """An empty batch_id follows the collecting batch, to its own end and not into the next one."""
    await filled(dao, 2)
    async with aclosing(dao.get_batch_pages("", follow=True)) as pages:
        first = await next_page(pages)
        await dao.release_batch("r")
        await filled(dao, 2, first=3)
        rest = [page async for page in pages]

    assert ["s1", "s2"] == [found.session.session_id for found in first.sessions]
    assert [] == [found for page in rest for found in page.sessions]
    assert (2, True) == (rest[-1].last_number, rest[-1].sealed)


async def test_there_is_nothing_to_follow(dao: ClickstreamDao) -> None:
    """Where no batch collects, following it raises NoCollectingBatch."""
    with pytest.raises(NoCollectingBatch):
        await pages_of(dao, "", follow=True)


async def test_following_stops_at_the_limit(dao: ClickstreamDao) -> None:
    """A reader that follows with a limit is done once that many sessions came, whenever they were registered."""
    batch_id = await filled(dao, 2)
    async with aclosing(dao.get_batch_sessions(batch_id, follow=True, limit=3)) as sessions:
        seen = [(await anext(sessions)).session_number, (await anext(sessions)).session_number]
        await filled(dao, 5, first=3)
        async with asyncio.timeout(PATIENCE_S):
            seen += [found.session_number async for found in sessions]

    assert [1, 2, 3] == seen


async def test_an_idle_stream_shows_signs_of_life(dao: ClickstreamDao, lively: None) -> None:
    """While nothing is registered, empty pages come that stand where the reader stands."""
    batch_id = await filled(dao, 2)
    async with aclosing(dao.get_batch_pages(batch_id, follow=True)) as pages:
        await next_page(pages)
        signs = [await next_page(pages), await next_page(pages)]

    assert [((), 2, False)] * 2 == [(page.sessions, page.last_number, page.sealed) for page in signs]


async def test_following_shows_a_sign_of_life_at_once(dao: ClickstreamDao, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that follows from the end of the batch gets an empty page at once, and not when the first is due.

    A client takes a stream up again only if something had come.
    """
    monkeypatch.setattr(reader, "HEARTBEAT_S", 3600.0)
    batch_id = await filled(dao, 2)
    async with aclosing(dao.get_batch_pages(batch_id, follow=True, after_number=2)) as pages:
        page = await next_page(pages)

    assert ((), 2, False) == (page.sessions, page.last_number, page.sealed)


async def test_commits_that_bring_nothing_hold_up_no_sign_of_life(
    dao: ClickstreamDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While only sessions come that the reader does not want, empty pages tell how far it is."""
    monkeypatch.setattr(reader, "HEARTBEAT_S", 0.5)
    batch_id = await filled(dao, 1)

    async def write() -> None:
        for number in count():
            await dao.register_session(Session(session_id=f"irrelevant {number}", is_irrelevant=True))

    async with aclosing(dao.get_batch_pages(batch_id, follow=True, exclude_irrelevant=True)) as pages:
        page = await next_page(pages)
        writing = asyncio.create_task(write())
        while page.last_number == 1:
            page = await next_page(pages)
        writing.cancel()
        await asyncio.wait([writing])

    assert ((), False) == (page.sessions, page.sealed)


async def test_following_brings_an_updated_session_again(dao: ClickstreamDao) -> None:
    """A session that is updated while someone follows comes again, under its new number and with its new content."""
    batch_id = await filled(dao, 1)
    async with aclosing(dao.get_batch_sessions(batch_id, follow=True)) as sessions:
        await anext(sessions)
        await dao.update_session(Session(session_id="s1", search_query="new"))
        async with asyncio.timeout(PATIENCE_S):
            again = await anext(sessions)

    assert ("s1", "new", 2) == (again.session.session_id, again.session.search_query, again.session_number)


async def test_following_passes_irrelevant_sessions(dao: ClickstreamDao) -> None:
    """A reader that follows without irrelevant sessions gets those that come after one."""
    batch_id = await filled(dao, 2)
    async with aclosing(dao.get_batch_sessions(batch_id, follow=True, exclude_irrelevant=True)) as sessions:
        seen = [(await anext(sessions)).session_number, (await anext(sessions)).session_number]
        await filled(dao, 2, first=3)
        async with asyncio.timeout(PATIENCE_S):
            seen.append((await anext(sessions)).session_number)

    assert [1, 2, 4] == seen


async def test_a_follower_among_writers_misses_nothing(dao: ClickstreamDao, small_pages: None) -> None:
    """While many register and update at once, a follower sees the numbers go up and every final place once."""
    batch_id = await filled(dao, 1)

    async def write() -> None:
        for first in range(2, 62, 20):
            numbers = range(first, first + 20)
            await asyncio.gather(*(dao.register_session(Session(session_id=f"s{number}")) for number in numbers))
            await asyncio.gather(
                *(dao.update_session(Session(session_id=f"s{number}", search_query="new")) for number in numbers[::4])
            )
        await dao.release_batch("r")

    writing = asyncio.create_task(write())
    async with asyncio.timeout(PATIENCE_S):
        seen = {found.session_number: found.session async for found in dao.get_batch_sessions(batch_id, follow=True)}
    await writing
    final = {found.session_number: found.session for found in await sessions_of(dao, batch_id)}

    assert 61 == len(final)
    assert sorted(seen) == list(seen)
    assert final == {number: seen.get(number) for number in final}
