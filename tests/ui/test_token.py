"""The page of a server that asks for tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from guarded import Guarded

from browser import Browser
from clickstream import Session
from clickstream_server.security.roles import Role
from harness import eventually


@pytest.fixture
async def guarded(mongodb_uri: str, database: str, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with Guarded.started(mongodb_uri, database, tmp_path / "tokens", ui_listen="127.0.0.1:0") as found:
        async with found.client("producer") as client:
            await client.register_session(Session(session_id="s-1", search_query="desk lamp"))
        yield found


async def seen(browser: Browser, css: str, words: str) -> str:
    async def condition() -> str:
        text = await browser.text(css)
        return text if words in text else ""

    return await eventually(condition, f"{css} shows {words}")


async def give(browser: Browser, token: str) -> None:
    await browser.click("#token")
    await browser.enter(token)


async def test_the_page_asks_for_a_token_and_shows_what_it_may(guarded: Guarded, browser: Browser) -> None:
    """Without a token the page asks for one; with one of a reader it shows the batches, also after a reload."""
    await browser.open(guarded.page)
    await seen(browser, "#ask", "Token")
    assert [] == await browser.texts("#view, #find, #forget")

    await give(browser, guarded.tokens["consumer"])
    await seen(browser, "#batches", "collecting")
    assert [] == await browser.texts("#ask")

    await browser.open(f"{guarded.page}#session/s-1")
    await seen(browser, "#view", "desk lamp")
    assert guarded.tokens["consumer"] not in await browser.script("return document.documentElement.outerHTML")
    complaints = [text for text in await browser.complaints() if "401" not in text]
    assert [] == complaints

    await browser.click("#forget")
    await seen(browser, "#ask", "Token")
    assert "desk lamp" not in await browser.script("return document.body.innerText")
    assert None is await browser.script("return sessionStorage.getItem('clickstream-token')")


async def test_what_is_wrong_with_a_token_is_said(guarded: Guarded, browser: Browser) -> None:
    """What is no token, an unknown one, and one of a producer: each is told, and the page asks again."""
    await browser.open(guarded.page)
    await seen(browser, "#ask", "Token")

    await give(browser, "passwörd")
    await seen(browser, "#ask-trouble", "That is not a token")
    await give(browser, guarded.tokens["admin"][:-4] + "0000")
    await seen(browser, "#ask-trouble", "not known here")
    await give(browser, guarded.tokens["producer"])
    await seen(browser, "#ask-trouble", "the token of producer has the roles producer; the page needs one of consumer")
    await give(browser, guarded.tokens["operator"])
    await seen(browser, "#batches", "collecting")


async def test_a_revoked_token_closes_the_page(guarded: Guarded, browser: Browser) -> None:
    """A page that is open asks for a token once its own is revoked, and shows nothing any more."""
    await browser.open(guarded.page)
    await seen(browser, "#ask", "Token")
    await give(browser, guarded.tokens["consumer"])
    await seen(browser, "#batches", "collecting")

    guarded.revoke(guarded.tokens["consumer"])

    await seen(browser, "#ask-trouble", "not known here, or was revoked")
    assert [] == await browser.texts("#view")


@pytest.mark.parametrize("path", ["overview", "batches", "batch?id=x", "session?id=s-1"])
async def test_all_data_need_a_token_of_a_reader(guarded: Guarded, path: str) -> None:
    """Every path of data is 401 without a token and 403 with a producer's, as the page reads it; files are open."""
    url = f"{guarded.page}/api/{path}"
    async with aiohttp.ClientSession() as http:
        async with http.get(url) as answer:
            error = (await answer.json())["error"]
            assert (401, "Bearer", "MISSING_CREDENTIALS") == (
                answer.status,
                answer.headers["WWW-Authenticate"],
                error["reason"],
            )
        headers = {"Authorization": f"Bearer {guarded.tokens['producer']}"}
        async with http.get(url, headers=headers) as answer:
            assert (403, "METHOD_NOT_ALLOWED") == (answer.status, (await answer.json())["error"]["reason"])
        for role in (Role.CONSUMER, Role.OPERATOR, Role.ADMIN):
            headers = {"Authorization": f"Bearer {guarded.tokens[role]}"}
            async with http.get(url, headers=headers) as answer:
                assert answer.status in {200, 404}
        async with http.get(guarded.page) as answer:
            assert 200 == answer.status
            assert "api/overview" not in await answer.text()


async def test_a_tokens_foreign_page_gets_nothing(guarded: Guarded) -> None:
    """A good token does not make up for a foreign name in Host, or for another origin."""
    token = {"Authorization": f"Bearer {guarded.tokens['admin']}"}
    async with aiohttp.ClientSession() as http:
        for more in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            async with http.get(f"{guarded.page}/api/overview", headers=token | more) as answer:
                assert 403 == answer.status
