"""The page in a real browser."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.webdriver.common.keys import Keys

from browser import Browser
from clickstream import (
    ClickstreamClient,
    Money,
    Order,
    SearchResultItem,
    Session,
    SessionBatchStatus,
    SessionEvent,
    SortBy,
)
from clickstream_server.embedded import EmbeddedMongo
from harness import ServerProcess, eventually
from sites import Site, opened_site

NOT_KNOWN = "\u2013"
LAMPS = tuple(SearchResultItem(object_id=f"lamp-{place}") for place in (3, 7, 9))


async def shows(browser: Browser, css: str, text: str) -> None:
    """Wait until an element shows this text."""

    async def there() -> bool:
        return any(text in found for found in await browser.texts(css))

    try:
        await eventually(there, f"{css} shows {text!r}")
    except AssertionError as error:
        error.add_note(f"the page says: {await browser.text('body')}")
        raise


async def register_with_clicks(client: ClickstreamClient) -> str:
    """One session: its second result clicked first and third and bought, its third clicked second. Return its batch."""
    done = await client.register_session(Session(session_id="s-1", search_query="desk lamp", search_results=LAMPS))
    acts = [
        ("click", "lamp-7", None),
        ("click", "lamp-9", None),
        ("click", "lamp-7", None),
        ("purchase", "lamp-7", "49.90"),
        ("click", "shade-1", None),
        ("scroll", "", None),
    ]
    events = [
        SessionEvent(
            event_id=f"e-{number}",
            session_id="s-1",
            object_id=object_id,
            event_type=event_type,
            value=Money(currency_code="EUR", amount=amount) if amount else None,
            created_at=f"2025-03-03T09:00:{number:02}Z",
        )
        for number, (event_type, object_id, amount) in enumerate(acts)
    ]
    await client.push_events(events)
    return done.session.batch_id


# --- what is shown ---------------------------------------------------------------------------------------------------


async def test_batches_are_shown_as_they_grow(site: Site, browser: Browser) -> None:
    """An empty service says what to try; batches then appear, grow and are released without a reload."""
    await browser.open(site.url)
    await shows(browser, ".empty", "Nothing registered yet.")
    await shows(browser, ".empty pre", "clickstream replay --sample --target 127.0.0.1:")

    done = await site.client.register_session(Session(session_id="s-1"))
    batch_id = done.session.batch_id
    await shows(browser, f"[data-batch='{batch_id}']", f"{batch_id} collecting 1")
    assert "" == await browser.text(".empty")

    await site.client.register_session(Session(session_id="s-2"))
    await shows(browser, f"[data-batch='{batch_id}']", f"{batch_id} collecting 2")

    await site.client.release_batch("training-1")
    await shows(browser, f"[data-batch='{batch_id}']", f"{batch_id} released 2")
    await shows(browser, f"[data-batch='{batch_id}']", "as training-1")


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
    await shows(browser, f"[data-batch='{ids[-1]}']", "released")
    for last in (ids[5], ids[0]):
        await browser.click("main button.plain")
        await shows(browser, f"[data-batch='{last}']", "released")

    await site.client.update_batch_status(ids[0], SessionBatchStatus.COMPLETED)
    await site.client.update_batch_status(ids[24], SessionBatchStatus.ARCHIVED)
    await shows(browser, f"[data-batch='{ids[0]}']", "completed")
    await shows(browser, f"[data-batch='{ids[24]}']", "archived")

    await browser.click(f"[data-batch='{ids[0]}'] a")
    await shows(browser, ".facts", "completed")
    await site.client.update_batch_status(ids[0], SessionBatchStatus.ARCHIVING)
    await shows(browser, ".facts", "archiving")


async def test_the_rate_is_live(site: Site, browser: Browser) -> None:
    """While sessions come in, the rate is above zero, is drawn and is said; when no more come, it is zero again."""
    await browser.open(site.url)
    await shows(browser, "#rate", "0")

    async def keep_registering() -> None:
        for number in range(100_000):
            await site.client.register_session(Session(session_id=f"s-{number}"))

    feeding = asyncio.create_task(keep_registering())
    try:

        async def positive() -> bool:
            text = (await browser.text("#rate")).replace(",", "")
            return text.strip("0.") not in {"", NOT_KNOWN}

        await eventually(positive, "the rate is above zero")
        await shows(browser, "#rate-said[aria-live=polite]", "sessions per second")
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
    await shows(browser, "#batches", batch_id)
    await browser.click("#batches a")
    await shows(browser, ".session", "desk lamp")
    (line,) = await browser.texts(".session summary")
    assert "4 clicks · purchase · scroll · 49.90 EUR" in line
    assert "3 results, clicked at place 2, then 3" == await browser.script(
        "return document.querySelector('.strip').getAttribute('aria-label')"
    )

    await browser.click(".session summary")
    await shows(browser, ".session-body", "About the search as a whole scroll")  # filled after it has opened
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
    await shows(browser, "h2", "desk lamp")
    await shows(browser, ".facts", f"number 1 in {batch_id}")
    assert ["click", "click", "click", "purchase", "click", "scroll"] == await browser.texts(
        ".events tbody td:nth-child(2)"
    )
    assert "H2" == await browser.script("return document.activeElement.tagName")

    await browser.press("/")
    await browser.press(Keys.BACKSPACE * 3)
    await browser.enter("s-unknown")
    await shows(browser, "#trouble", "Session s-unknown is not known here.")


@pytest.mark.parametrize("session_id", ["a/b", "100%", "x?y#z&w=1", "ü \U0001f600 \u202eodd", "../..", "#session/s"])
async def test_any_id_can_be_linked_to(site: Site, browser: Browser, session_id: str) -> None:
    """The address of a session leads to it, whatever characters its id has."""
    await site.client.register_session(Session(session_id=session_id, search_query="found it"))

    await browser.open(f"{site.url}#session/{quote(session_id, safe='')}")

    await shows(browser, "h2", "found it")


async def test_an_address_that_makes_no_sense_leads_to_the_batches(site: Site, browser: Browser) -> None:
    """A broken link shows the start instead of nothing."""
    for fragment in ("#session/%", "#nothing/here", "#batch/", "#session/"):
        await browser.open(f"{site.url}{fragment}")
        await shows(browser, "h2", "Batches")


async def test_a_batch_that_is_not_known_says_so(site: Site, browser: Browser) -> None:
    """A link to an unknown batch says that it is unknown."""
    await browser.open(f"{site.url}#batch/nothing")

    await shows(browser, "#trouble", "Batch nothing is not known here.")


async def test_a_batch_is_paged_by_number(site: Site, browser: Browser) -> None:
    """Next, latest and a number lead to the sessions from there on; new sessions are told of."""
    for number in range(1, 61):
        done = await site.client.register_session(Session(session_id=f"s-{number}"))
    await browser.open(f"{site.url}#batch/{done.session.batch_id}")
    await shows(browser, "h3", "Sessions 1 to 25 of 60")
    await browser.click("nav a[href$='/after/25']")
    await shows(browser, "h3", "Sessions 26 to 50 of 60")
    await browser.click("nav a[href$='/after/35']")
    await shows(browser, "h3", "Sessions 36 to 60 of 60")
    await browser.click("nav input")
    await browser.enter("7")
    await shows(browser, "h3", "Sessions 7 to 31 of 60")
    await browser.open(f"{site.url}#batch/{done.session.batch_id}/after/999")
    await shows(browser, ".empty", "There are no sessions after number 999.")
    await browser.click("nav a[href$='/after/35']")
    await shows(browser, "h3", "Sessions 36 to 60 of 60")

    await site.client.register_session(Session(session_id="s-61"))
    await shows(browser, ".news", "1 new session since: show the latest")
    await browser.click(".news a")
    await shows(browser, "h3", "Sessions 37 to 61 of 61")


async def test_irrelevant_sessions_are_marked_in_words(site: Site, browser: Browser) -> None:
    """A session marked irrelevant says so, in the batch and by itself."""
    batch_id = await register_with_clicks(site.client)
    await site.client.mark_session_irrelevant("s-1")

    await browser.open(f"{site.url}#batch/{batch_id}")
    await shows(browser, ".session.irrelevant .badge", "irrelevant")
    await browser.open(f"{site.url}#session/s-1")
    await shows(browser, ".card.irrelevant .badge", "irrelevant")


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

    await shows(browser, ".chip", "purchase 3\u00d7 12345678901234567890.10 EUR, 0.20 EUR, 7 JPY")
    await shows(browser, ".facts", "12345678901234567890.30 EUR + 7 JPY")


async def test_times_are_the_viewers(site: Site, browser: Browser) -> None:
    """A time stands in the viewer's zone; its title is the exact one, in UTC."""
    await browser.command("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    await site.client.register_session(Session(session_id="s", created_at="2026-01-02T20:04:05.123456Z"))
    await browser.open(f"{site.url}#session/s")

    await shows(browser, ".facts time", "3 Jan 2026, 05:04:05")
    assert "2026-01-02T20:04:05.123456Z (UTC)" == await browser.script(
        "return document.querySelector('.facts time').title"
    )
    await browser.command("Emulation.setTimezoneOverride", timezoneId="")


# --- hostile text ----------------------------------------------------------------------------------------------------

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


async def test_hostile_text_stays_text(site: Site, browser: Browser) -> None:
    """Whatever producers send is shown as text, to the letter: nothing of it becomes an element or runs."""
    done = await site.client.register_session(
        Session(
            session_id=f"s{HOSTILE}",
            search_query=HOSTILE,
            search_results=(SearchResultItem(object_id=HOSTILE, meta={HOSTILE: HOSTILE}),),
            search_meta={HOSTILE: [HOSTILE]},
            payload_filter={"$where": HOSTILE},
            sort_by=SortBy(field=HOSTILE, order=Order.DESC),
            user_id=HOSTILE,
        )
    )
    batch_id = done.session.batch_id
    events = [("click", HOSTILE), ("click", f"else{HOSTILE}"), (HOSTILE[:64], HOSTILE), (HOSTILE[:64], "")]
    await site.client.push_events(
        [
            SessionEvent(
                event_id=f"{number}{HOSTILE}",
                session_id=f"s{HOSTILE}",
                event_type=event_type,
                object_id=object_id,
                meta={HOSTILE: HOSTILE},
            )
            for number, (event_type, object_id) in enumerate(events)
        ]
    )
    await site.client.release_batch(HOSTILE)

    for fragment, where in [
        ("", "#batches"),
        (f"#batch/{batch_id}", ".session .query"),
        (f"#session/{quote('s' + HOSTILE, safe='')}", ".query-title"),
        (f"#session/{quote('t' + HOSTILE, safe='')}", "#trouble"),
        (f"#batch/{quote(HOSTILE, safe='')}", "#trouble"),
    ]:
        await browser.open(f"{site.url}{fragment}")
        await shows(browser, where, HOSTILE)
        await browser.script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert 0 == await browser.script("return document.querySelectorAll('main img, main script').length")
        assert "owned" != await browser.script("return document.title")


async def test_directions_of_text_stay_apart(site: Site, browser: Browser) -> None:
    """Text that runs from right to left, or says that all must, turns nothing that stands beside it."""
    await site.client.register_session(Session(session_id="s", search_results=LAMPS))
    value = Money(currency_code="EUR", amount="12.50")
    acts = [("\u0634\u0631\u0627\u0621", None), ("\u202eesrever", value), ("purchase", value)]
    await site.client.push_events(
        [
            SessionEvent(event_id=str(number), session_id="s", event_type=act, object_id="lamp-3", value=paid)
            for number, (act, paid) in enumerate(acts)
        ]
    )
    await browser.open(f"{site.url}#session/s")
    await shows(browser, "h3", "25.00 EUR")
    lefts = await browser.script(
        "return [...document.querySelectorAll('h3 bdi')].map(e => e.getBoundingClientRect().left)"
    )

    assert 4 == len(lefts)
    assert sorted(lefts) == lefts


async def test_html_cannot_be_made_of_text_even_by_mistake(site: Site, browser: Browser) -> None:
    """The browser itself refuses to make HTML of text on this page."""
    await browser.open(site.url)
    refused = "try { document.body.innerHTML = '<b>x</b>'; return 'made'; } catch { return 'refused'; }"

    assert "refused" == await browser.script(refused)


async def test_nothing_comes_from_elsewhere(site: Site, browser: Browser) -> None:
    """All that the page loads comes from its server, and the browser has nothing to complain of."""
    batch_id = await register_with_clicks(site.client)
    await browser.open(f"{site.url}#batch/{batch_id}")
    await shows(browser, ".session", "desk lamp")
    await browser.click(".session summary")
    await shows(browser, ".session-body", "lamp-9")
    loaded = await browser.script("return performance.getEntriesByType('resource').map(e => e.name)")

    assert [] == [name for name in loaded if not name.startswith(f"{site.url}/")]
    assert [] == await browser.complaints()


@pytest.mark.parametrize("width", [400, 1280])
async def test_nothing_is_wider_than_the_window(site: Site, browser: Browser, width: int) -> None:
    """On a telephone and on a laptop, long words and many results do not widen the page."""
    many = tuple(SearchResultItem(object_id=f"{'o' * 200}-{place}") for place in range(200))
    done = await site.client.register_session(
        Session(session_id="s" * 256, search_query="w" * 5000, search_results=many, search_meta={"m" * 500: "v" * 500})
    )
    await site.client.push_events(
        [SessionEvent(event_id=str(place), session_id="s" * 256, object_id=many[place].object_id) for place in range(9)]
    )
    await browser.command(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
    )
    for fragment in ("", f"#batch/{done.session.batch_id}", f"#session/{'s' * 256}"):
        await browser.open(f"{site.url}{fragment}")
        await shows(browser, "h2", "" if fragment.startswith("#session") else "Batch")
        await shows(browser, "main", "w" * 20 if fragment else "collecting")
        await browser.script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert width >= await browser.script("return document.documentElement.scrollWidth")


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_the_page_lives_through_an_outage_of_the_database(tmp_path: Path, browser: Browser) -> None:
    """While the database is away the page says so and keeps what it shows; when it is back, all goes on by itself."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.start()
    async with opened_site(mongo.uri, "outage") as site:
        batch_id = await register_with_clicks(site.client)
        await browser.open(site.url)
        await shows(browser, "#state-words", "The database answers.")
        await mongo.stop()
        await shows(browser, "#state-words", "The database does not answer, since ")
        assert batch_id in await browser.text("#batches")
        await browser.script("location.hash = '#session/s-1'")
        await shows(browser, "#trouble", "the database does not answer")

        await mongo.start()
        await shows(browser, "#state-words", "The database answers.")
        await shows(browser, "h2", "desk lamp")
    await mongo.stop()


async def test_what_is_not_there_is_asked_for_once_at_a_time(site: Site, browser: Browser) -> None:
    """While a view that could not be shown is asked for again, it is not asked for once more with every second."""
    await browser.open(site.url)
    await shows(browser, "#state-words", "The database answers.")
    await browser.script(
        """
        const passed = window.fetch;
        window.sessions = window.overviews = 0;
        window.fetch = (address, options) => {
          if (address.startsWith("api/overview") && window.sessions > 1) window.overviews += 1;
          if (!address.startsWith("api/session")) return passed(address, options);
          window.sessions += 1;
          // At first the database is away, and then it takes its time.
          return window.sessions === 1 ? Promise.resolve(new Response("{}", { status: 503 })) : new Promise(() => {});
        };
        location.hash = "#session/s-1";
        """
    )

    async def seconds_passed() -> bool:
        return await browser.script("return window.overviews") >= 3

    await eventually(seconds_passed, "the page goes on asking for the overview")
    assert 2 == await browser.script("return window.sessions")


async def test_the_page_lives_through_a_restart_of_the_server(
    mongodb_uri: str, database: str, browser: Browser
) -> None:
    """While the server is away the page says so; when one serves there again, the page goes on by itself."""
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings, ui_listen="127.0.0.1:0")
    async with ClickstreamClient(server.address) as client:
        await register_with_clicks(client)
    await browser.open(server.page)
    await shows(browser, "#state-words", "The database answers.")
    await server.kill()
    await shows(browser, "#state-words", "The server does not answer, since ")
    await shows(browser, "#batches", "collecting")

    again = await ServerProcess.start(**settings, ui_listen=server.page.removeprefix("http://"))
    await shows(browser, "#state-words", "The database answers.")
    assert 0 == await again.stop()


async def test_nobody_is_asked_while_nobody_looks(site: Site, browser: Browser) -> None:
    """A page that is hidden asks for nothing; when it is looked at again, it goes on."""
    await browser.open(site.url)
    await shows(browser, "#state-words", "The database answers.")
    asked = "return performance.getEntriesByType('resource').filter(e => e.name.includes('/api/overview')).length"
    hide = "Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true });"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    await browser.script(hide + tell, True)
    # Time passes in the page's own terms: as many of its seconds as two further questions would take.
    await browser.later("const done = arguments[0]; setTimeout(done, 1500)")
    before = await browser.script(asked)
    await browser.later("const done = arguments[0]; setTimeout(done, 2500)")
    assert before == await browser.script(asked)

    await browser.script(hide + tell, False)

    async def goes_on() -> bool:
        return before < await browser.script(asked)

    await eventually(goes_on, "the page asks again")
