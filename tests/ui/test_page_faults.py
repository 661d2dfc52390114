"""The page in a real browser, while the server or its database is away, and while nobody looks."""

from __future__ import annotations

from pathlib import Path

from browser import Browser
from clickstream import (
    ClickstreamClient,
)
from clickstream_server.embedded import EmbeddedMongo
from harness import ServerProcess, eventually
from sites import Site, opened_site, register_with_clicks


async def test_the_page_lives_through_an_outage_of_the_database(tmp_path: Path, browser: Browser) -> None:
    """While the database is away the page says so and keeps what it shows; when it is back, all goes on by itself."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.start()
    async with opened_site(mongo.uri, "outage") as site:
        batch_id = await register_with_clicks(site.client)
        await browser.open(site.url)
        await browser.shows("#state-words", "The database answers.")
        await mongo.stop()
        await browser.shows("#state-words", "The database does not answer, since ")
        assert batch_id in await browser.text("#batches")
        await browser.script("location.hash = '#session/s-1'")
        await browser.shows("#trouble", "the database does not answer")

        await mongo.start()
        await browser.shows("#state-words", "The database answers.")
        await browser.shows("h2", "desk lamp")
    await mongo.stop()


async def test_what_is_not_there_is_asked_for_once_at_a_time(site: Site, browser: Browser) -> None:
    """While a view that could not be shown is asked for again, it is not asked for once more with every second."""
    await browser.open(site.url)
    await browser.shows("#state-words", "The database answers.")
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
    await browser.shows("#state-words", "The database answers.")
    await server.kill()
    await browser.shows("#state-words", "The server does not answer, since ")
    await browser.shows("#batches", "collecting")

    again = await ServerProcess.start(**settings, ui_listen=server.page.removeprefix("http://"))
    await browser.shows("#state-words", "The database answers.")
    assert 0 == await again.stop()


async def test_nobody_is_asked_while_nobody_looks(site: Site, browser: Browser) -> None:
    """A page that is hidden asks for nothing; when it is looked at again, it goes on."""
    await browser.open(site.url)
    await browser.shows("#state-words", "The database answers.")
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
