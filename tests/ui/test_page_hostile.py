"""The page in a real browser, and text that means harm."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from browser import Browser
from clickstream import (
    Money,
    Order,
    SearchResultItem,
    Session,
    SessionEvent,
    SortBy,
)
from sites import LAMPS, Site, register_with_clicks

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
        await browser.shows(where, HOSTILE)
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
    await browser.shows("h3", "25.00 EUR")
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
    await browser.shows(".session", "desk lamp")
    await browser.click(".session summary")
    await browser.shows(".session-body", "lamp-9")
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
        await browser.shows("h2", "" if fragment.startswith("#session") else "Batch")
        await browser.shows("main", "w" * 20 if fragment else "collecting")
        await browser.script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert width >= await browser.script("return document.documentElement.scrollWidth")


@pytest.mark.parametrize("width", [700, 1280])
async def test_a_long_key_leaves_the_others_their_room(site: Site, browser: Browser, width: int) -> None:
    """Ids stand in one line each and no time is cut within a word, also where a batch has the longest key."""
    for number, key in enumerate(("k" * 256, "training-1")):
        await site.client.register_session(Session(session_id=f"s-{number}"))
        await site.client.release_batch(key)
    await browser.command(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    await browser.open(site.url)
    await browser.shows("#batches", "k" * 256)

    lines = "return [...document.querySelectorAll(arguments[0])].map(e => e.getClientRects().length)"
    assert [1, 1] == await browser.script(lines, "#batches a")
    assert max(await browser.script(lines, "#batches time")) <= 3
    assert width >= await browser.script("return document.documentElement.scrollWidth")


@pytest.mark.parametrize(("query", "words"), [("", "empty query"), (" \n\t", "blank query"), (None, "no query")])
async def test_a_query_that_cannot_be_seen_is_told(site: Site, browser: Browser, query: str | None, words: str) -> None:
    """A session whose query shows nothing has words in its place, in the batch and by itself."""
    done = await site.client.register_session(Session(session_id="s", search_query=query))

    await browser.open(f"{site.url}#batch/{done.session.batch_id}")
    await browser.shows(".session .query", words)
    await browser.open(f"{site.url}#session/s")
    await browser.shows("h2", words)


async def test_marks_are_seen_with_the_viewers_own_colours(site: Site, browser: Browser) -> None:
    """Where the system forces its colours upon pages, as for high contrast, the squares of results are seen."""
    batch_id = await register_with_clicks(site.client)
    await browser.command("Emulation.setEmulatedMedia", features=[{"name": "forced-colors", "value": "active"}])
    await browser.open(f"{site.url}#batch/{batch_id}")
    await browser.shows(".session", "desk lamp")
    ground = "return arguments[0].map(css => getComputedStyle(document.querySelector(css)).backgroundColor)"
    card, *cells = await browser.script(ground, [".card", ".strip .cell:not(.clicked)", ".strip .cell.clicked"])
    await browser.command("Emulation.setEmulatedMedia", features=[])

    assert 3 == len({card, *cells})
