"""The page in a real browser."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import quote

import pytest
from selenium.webdriver.common.keys import Keys

from browser import Browser
from clickstream import (
    Money,
    Session,
    SessionBatchStatus,
    SessionEvent,
)
from harness import eventually
from sites import Site, register_with_clicks

NOT_KNOWN = "\u2013"


async def test_batches_are_shown_as_they_grow(site: Site, browser: Browser) -> None:
    """An empty service says what to try; batches then appear, grow and are released without a reload."""
    await browser.open(site.url)
    await browser.shows(".empty", "Nothing registered yet.")
    await browser.shows(".empty pre", "clickstream replay --sample --target 127.0.0.1:")

    done = await site.client.register_session(Session(session_id="s-1"))
    batch_id = done.session.batch_id
    await browser.shows(f"[data-batch='{batch_id}']", f"{batch_id} collecting 1")
    assert "" == await browser.text(".empty")

    await site.client.register_session(Session(session_id="s-2"))
    await browser.shows(f"[data-batch='{batch_id}']", f"{batch_id} collecting 2")

    await site.client.release_batch("training-1")
    await browser.shows(f"[data-batch='{batch_id}']", f"{batch_id} released 2")
    await browser.shows(f"[data-batch='{batch_id}']", "as training-1")


async def test_no_batch_is_lost_from_sight(site: Site, browser: Browser) -> None:
    """Batches that new ones push out of the newest 20 are behind the button, or stay if it was used before."""

    async def release(*numbers: int) -> None:
        for number in numbers:
            await site.client.register_session(Session(session_id=f"s-{number}"))
            await site.client.release_batch(f"r-{number:02}")

    async def keys(first: int, last: int) -> None:
        expected = [f"r-{number:02}" for number in range(first, last - 1, -1)]

        async def listed() -> bool:
            return expected == await browser.texts("#batches code")

        await eventually(listed, f"{expected} are listed")

    await release(*range(19))
    await browser.open(site.url)
    await keys(18, 0)
    assert "" == await browser.text("main button.plain")

    await release(19, 20, 21)
    await keys(21, 2)
    await browser.click("main button.plain")
    await keys(21, 0)
    await release(22)
    await keys(22, 0)


async def test_older_batches_change_too(site: Site, browser: Browser) -> None:
    """Batches that are older than the newest 20 take their new status without a reload: in the list, and each alone."""
    ids = []
    for number in range(45):
        done = await site.client.register_session(Session(session_id=f"s-{number}"))
        await site.client.release_batch(f"r-{number}")
        ids.append(done.session.batch_id)
    await browser.open(site.url)
    await browser.shows(f"[data-batch='{ids[-1]}']", "released")
    for last in (ids[5], ids[0]):
        await browser.click("main button.plain")
        await browser.shows(f"[data-batch='{last}']", "released")

    await site.client.update_batch_status(ids[0], SessionBatchStatus.COMPLETED)
    await site.client.update_batch_status(ids[24], SessionBatchStatus.ARCHIVED)
    await browser.shows(f"[data-batch='{ids[0]}']", "completed")
    await browser.shows(f"[data-batch='{ids[24]}']", "archived")

    await browser.click(f"[data-batch='{ids[0]}'] a")
    await browser.shows(".facts", "completed")
    await site.client.update_batch_status(ids[0], SessionBatchStatus.ARCHIVING)
    await browser.shows(".facts", "archiving")


async def test_the_rate_is_live(site: Site, browser: Browser) -> None:
    """While sessions come in, the rate is above zero, is drawn and is said; when no more come, it is zero again."""
    await browser.open(site.url)
    await browser.shows("#rate", "0")

    async def keep_registering() -> None:
        for number in range(100_000):
            await site.client.register_session(Session(session_id=f"s-{number}"))

    feeding = asyncio.create_task(keep_registering())
    try:

        async def positive() -> bool:
            text = (await browser.text("#rate")).replace(",", "")
            return text.strip("0.") not in {"", NOT_KNOWN}

        await eventually(positive, "the rate is above zero")
        await browser.shows("#rate-said[aria-live=polite]", "sessions per second")
        drawn = "return document.querySelector('.chart .line:not(.mean)').getAttribute('d').length"
        assert await browser.script(drawn) > 0
    finally:
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding

    async def none() -> bool:
        return "0" == await browser.text("#rate")

    await eventually(none, "the rate is zero again")


async def test_clicks_are_laid_over_the_results(site: Site, browser: Browser) -> None:
    """A batch opens to its sessions, and a session to its results in order, and what was clicked."""
    batch_id = await register_with_clicks(site.client)
    await browser.open(site.url)
    await browser.shows("#batches", batch_id)
    await browser.click("#batches a")
    await browser.shows(".session", "desk lamp")
    (line,) = await browser.texts(".session summary")
    assert "4 clicks · purchase · scroll · 49.90 EUR" in line
    assert "3 results, clicked at place 2, then 3" == await browser.script(
        "return document.querySelector('.strip').getAttribute('aria-label')"
    )

    await browser.click(".session summary")
    await browser.shows(".session-body", "About the search as a whole scroll")  # filled after it has opened
    assert [
        "1 lamp-3",
        "2 1 3 clicked 2\u00d7 lamp-7 purchase 49.90 EUR",
        "3 2 clicked lamp-9",
    ] == await browser.texts(".session ol.results li")
    assert ["4 clicked shade-1"] == await browser.texts(".session ul.results li")


async def test_a_session_is_found_by_its_id(site: Site, browser: Browser) -> None:
    """An id that is known shows the session with its events in order; one that is not known says so."""
    batch_id = await register_with_clicks(site.client)
    await browser.open(site.url)
    await browser.press("/")
    await browser.enter("s-1")
    await browser.shows("h2", "desk lamp")
    await browser.shows(".facts", f"number 1 in {batch_id}")
    assert ["click", "click", "click", "purchase", "click", "scroll"] == await browser.texts(
        ".events tbody td:nth-child(2)"
    )
    assert "H2" == await browser.script("return document.activeElement.tagName")

    await browser.press("/")
    await browser.press(Keys.BACKSPACE * 3)
    await browser.enter("s-unknown")
    await browser.shows("#trouble", "Session s-unknown is not known here.")


@pytest.mark.parametrize("session_id", ["a/b", "100%", "x?y#z&w=1", "ü \U0001f600 \u202eodd", "../..", "#session/s"])
async def test_any_id_can_be_linked_to(site: Site, browser: Browser, session_id: str) -> None:
    """The address of a session leads to it, whatever characters its id has."""
    await site.client.register_session(Session(session_id=session_id, search_query="found it"))

    await browser.open(f"{site.url}#session/{quote(session_id, safe='')}")

    await browser.shows("h2", "found it")


async def test_an_address_that_makes_no_sense_leads_to_the_batches(site: Site, browser: Browser) -> None:
    """A broken link shows the start instead of nothing."""
    for fragment in ("#session/%", "#nothing/here", "#batch/", "#session/"):
        await browser.open(f"{site.url}{fragment}")
        await browser.shows("h2", "Batches")


async def test_a_batch_that_is_not_known_says_so(site: Site, browser: Browser) -> None:
    """A link to an unknown batch says that it is unknown."""
    await browser.open(f"{site.url}#batch/nothing")

    await browser.shows("#trouble", "Batch nothing is not known here.")


async def test_a_batch_is_paged_by_number(site: Site, browser: Browser) -> None:
    """Next, latest and a number lead to the sessions from there on; new sessions are told of."""
    for number in range(1, 61):
        done = await site.client.register_session(Session(session_id=f"s-{number}"))
    await browser.open(f"{site.url}#batch/{done.session.batch_id}")
    await browser.shows("h3", "Sessions 1 to 25 of 60")
    await browser.click("nav a[href$='/after/25']")
    await browser.shows("h3", "Sessions 26 to 50 of 60")
    await browser.click("nav a[href$='/after/35']")
    await browser.shows("h3", "Sessions 36 to 60 of 60")
    await browser.click("nav input")
    await browser.enter("7")
    await browser.shows("h3", "Sessions 7 to 31 of 60")
    await browser.open(f"{site.url}#batch/{done.session.batch_id}/after/999")
    await browser.shows(".empty", "There are no sessions after number 999.")
    await browser.click("nav a[href$='/after/35']")
    await browser.shows("h3", "Sessions 36 to 60 of 60")

    await site.client.register_session(Session(session_id="s-61"))
    await browser.shows(".news", "1 new session since: show the latest")
    await browser.click(".news a")
    await browser.shows("h3", "Sessions 37 to 61 of 61")


async def test_what_is_shown_already_is_shown_anew(site: Site, browser: Browser) -> None:
    """A link, or an id to show, that leads to where one is brings what has come since."""
    done = await site.client.register_session(Session(session_id="s-1", search_query="desk lamp"))
    await browser.open(f"{site.url}#batch/{done.session.batch_id}")
    await browser.shows("h3", "Sessions 1 to 1 of 1")
    await site.client.register_session(Session(session_id="s-2"))
    await browser.shows(".news", "1 new session since: show the latest")
    await browser.click(".news a")
    await browser.shows("h3", "Sessions 1 to 2 of 2")

    await browser.open(f"{site.url}#session/s-1")
    await browser.shows("main", "None so far.")
    await site.client.push_events([SessionEvent(event_id="e", session_id="s-1", object_id="lamp-3")])
    await browser.press("/")
    await browser.enter("s-1")
    await browser.shows(".events", "lamp-3")


async def test_irrelevant_sessions_are_marked_in_words(site: Site, browser: Browser) -> None:
    """A session marked irrelevant says so, in the batch and by itself."""
    batch_id = await register_with_clicks(site.client)
    await site.client.mark_session_irrelevant("s-1")

    await browser.open(f"{site.url}#batch/{batch_id}")
    await browser.shows(".session.irrelevant .badge", "irrelevant")
    await browser.open(f"{site.url}#session/s-1")
    await browser.shows(".card.irrelevant .badge", "irrelevant")


async def test_amounts_are_exact(site: Site, browser: Browser) -> None:
    """An amount has every digit that was sent, and sums are exact for each currency."""
    await site.client.register_session(Session(session_id="s"))
    amounts = [("EUR", "12345678901234567890.10"), ("EUR", "0.20"), ("JPY", "7")]
    await site.client.push_events(
        [
            SessionEvent(
                event_id=str(number),
                session_id="s",
                object_id="o",
                event_type="purchase",
                value=Money(currency_code=code, amount=amount),
            )
            for number, (code, amount) in enumerate(amounts)
        ]
    )
    await browser.open(f"{site.url}#session/s")

    await browser.shows(".chip", "purchase 3\u00d7 12345678901234567890.10 EUR, 0.20 EUR, 7 JPY")
    await browser.shows(".facts", "12345678901234567890.30 EUR + 7 JPY")


async def test_times_are_the_viewers(site: Site, browser: Browser) -> None:
    """A time stands in the viewer's zone; its title is the exact one, in UTC."""
    await browser.command("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    await site.client.register_session(Session(session_id="s", created_at="2026-01-02T20:04:05.123456Z"))
    await browser.open(f"{site.url}#session/s")

    await browser.shows(".facts time", "3 Jan 2026, 05:04:05")
    assert "2026-01-02T20:04:05.123456Z (UTC)" == await browser.script(
        "return document.querySelector('.facts time').title"
    )
    await browser.command("Emulation.setTimezoneOverride", timezoneId="")
