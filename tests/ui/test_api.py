"""What the page asks for, without a browser: bounded answers, clear errors, and who is kept out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from clickstream import ClickstreamClient, Money, SearchResultItem, Session, SessionEvent
from clickstream_server.embedded import EmbeddedMongo
from clickstream_server.ui import overview
from harness import eventually
from sites import Site, opened_site


@pytest.fixture
async def http(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(site.url) as session:
        yield session


async def asked(http: aiohttp.ClientSession, path: str, **parameters: Any) -> tuple[int, Any]:
    async with http.get(f"/api/{path}", params=parameters) as answer:
        return answer.status, await answer.json()


async def register(client: ClickstreamClient, *, sessions: int) -> str:
    """Register sessions s-1, s-2 …; return their batch."""
    for number in range(1, sessions + 1):
        done = await client.register_session(Session(session_id=f"s-{number}", search_query=f"query {number}"))
    return done.session.batch_id


# --- what is answered ------------------------------------------------------------------------------------------------


async def test_the_overview_has_the_batches_and_the_state_of_the_database(
    site: Site, http: aiohttp.ClientSession
) -> None:
    """The overview names the collecting batch with its size, and says that the database answers."""
    batch_id = await register(site.client, sessions=3)

    status, found = await asked(http, "overview")

    assert 200 == status
    assert [(batch_id, "COLLECTING", 3)] == [
        (batch["batch_id"], batch["status"], batch["session_counter"]) for batch in found["batches"]
    ]
    assert batch_id == found["collecting"]["batch_id"]
    assert True is found["database"]["answers"]


async def test_many_who_look_cost_one_look(
    site: Site, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overviews asked for at the same time are one look at the database: all are the same to the last digit."""
    monkeypatch.setattr(overview, "_LOOK_EVERY_S", 3600.0)  # however long this machine takes for all of them

    async def look() -> str:
        async with http.get("/api/overview") as answer:
            return await answer.text()

    found = await asyncio.gather(*(look() for _ in range(20)))

    assert 1 == len(set(found))


async def test_a_batch_is_read_page_by_page(site: Site, http: aiohttp.ClientSession) -> None:
    """Going on after each page's last number reads every session once, in order."""
    batch_id = await register(site.client, sessions=7)
    numbers, after = [], 0
    while after < 7:
        status, page = await asked(http, "batch", id=batch_id, after_number=after, limit=3)
        assert 200 == status
        assert len(page["sessions"]) <= 3
        numbers += [row["session_number"] for row in page["sessions"]]
        after = page["last_number"]

    assert [1, 2, 3, 4, 5, 6, 7] == numbers


async def test_nothing_is_read_without_a_bound(site: Site, http: aiohttp.ClientSession) -> None:
    """Without a limit, a batch gives 25 sessions with 50 events each, a session 500 events; counts are whole."""
    batch_id = await register(site.client, sessions=30)
    await site.client.push_events(
        [SessionEvent(event_id=f"e-{number}", session_id="s-1", object_id="o") for number in range(600)]
    )

    _, page = await asked(http, "batch", id=batch_id)
    _, session = await asked(http, "session", id="s-1")

    assert 25 == len(page["sessions"])
    assert (50, 600) == (len(page["sessions"][0]["events"]), page["sessions"][0]["event_count"])
    assert (500, 600) == (len(session["events"]), session["event_count"])


async def test_large_events_are_shown_in_part(site: Site, http: aiohttp.ClientSession) -> None:
    """Of a session whose events are too large to be held at once fewer are shown, and how many there are is told."""
    batch_id = await register(site.client, sessions=1)
    meta = {"n": [1] * 32_000}  # 64 KiB as JSON, and 350 as BSON
    for first in range(0, 60, 10):
        await site.client.push_events(
            [
                SessionEvent(event_id=f"e-{number}", session_id="s-1", object_id="o", meta=meta)
                for number in range(first, first + 10)
            ]
        )

    for path, parameters in (("session", {"id": "s-1"}), ("batch", {"id": batch_id})):
        status, found = await asked(http, path, **parameters)
        row = found["sessions"][0] if path == "batch" else found
        assert (200, 60) == (status, row["event_count"])
        assert 0 < len(row["events"]) < 50


async def test_older_batches_follow_the_overview(site: Site, http: aiohttp.ClientSession) -> None:
    """The overview has 20 batches; its token leads to the rest, and no batch is missing or twice."""
    released = []
    for number in range(23):
        await site.client.register_session(Session(session_id=f"s-{number}"))
        released.append((await site.client.release_batch(f"r-{number}")).batch.batch_id)

    _, first = await asked(http, "overview")
    _, rest = await asked(http, "batches", page_token=first["next_page_token"])

    assert 20 == len(first["batches"])
    assert sorted(released) == sorted(batch["batch_id"] for batch in first["batches"] + rest["batches"])
    assert "" == rest["next_page_token"]


async def test_values_arrive_as_they_are_stored(site: Site, http: aiohttp.ClientSession) -> None:
    """Amounts keep every digit, times their microseconds, structured queries their form, ids every character."""
    odd = "a/b?c=d&e#f %2F ü \U0001f600"
    await site.client.register_session(
        Session(
            session_id=odd,
            search_query={"match": ["lamp", None, 0.5, 2**53]},
            search_results=(SearchResultItem(object_id="o", rank=1.5, meta={"k": True}),),
        )
    )
    value = Money(currency_code="EUR", amount="12345678901234567890.10")
    event = SessionEvent(
        event_id="e", session_id=odd, event_type="buy", value=value, created_at="2026-01-02T03:04:05.123456Z"
    )
    await site.client.push_events([event])

    status, found = await asked(http, "session", id=odd)

    assert 200 == status
    assert odd == found["session"]["session_id"]
    assert {"match": ["lamp", None, 0.5, 2**53]} == found["session"]["search_query"]
    assert [{"object_id": "o", "rank": 1.5, "meta": {"k": True}}] == found["session"]["search_results"]
    assert {"currency_code": "EUR", "amount": "12345678901234567890.10"} == found["events"][0]["value"]
    assert [{"currency_code": "EUR", "amount": "12345678901234567890.10"}] == found["totals"]
    assert "2026-01-02T03:04:05.123456Z" == found["events"][0]["created_at"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parameters", "status", "reason"),
    [
        ("session", {"id": "unknown"}, 404, "SESSION_NOT_FOUND"),
        ("session", {}, 400, "INVALID_FIELD"),
        ("session", {"id": "  "}, 400, "INVALID_FIELD"),
        ("session", {"id": "x" * 257}, 400, "INVALID_FIELD"),
        ("session", {"id": "a\x00b"}, 400, "INVALID_FIELD"),
        ("session", {"id": "s", "events_limit": "1001"}, 400, "INVALID_FIELD"),
        ("session", {"id": "s", "events_limit": "-1"}, 400, "INVALID_FIELD"),
        ("batch", {"id": "unknown"}, 404, "BATCH_NOT_FOUND"),
        ("batch", {}, 400, "INVALID_FIELD"),
        ("batch", {"id": "b", "limit": "0"}, 400, "INVALID_FIELD"),
        ("batch", {"id": "b", "limit": "101"}, 400, "INVALID_FIELD"),
        ("batch", {"id": "b", "limit": "ten"}, 400, "INVALID_FIELD"),
        ("batch", {"id": "b", "limit": "٣"}, 400, "INVALID_FIELD"),
        ("batch", {"id": "b", "after_number": "9" * 30}, 400, "INVALID_FIELD"),
        ("batches", {"page_token": "made up"}, 400, "INVALID_FIELD"),
    ],
)
async def test_bad_requests_get_clear_errors(
    http: aiohttp.ClientSession, path: str, parameters: dict[str, str], status: int, reason: str
) -> None:
    """What is unknown or makes no sense is answered with a status, a reason and words."""
    found_status, found = await asked(http, path, **parameters)

    assert (status, reason) == (found_status, found["error"]["reason"])
    assert found["error"]["message"]


@pytest.mark.parametrize("raw", ["%ED%A0%80", "%FF", "%", "%00"])
async def test_ids_that_are_no_text_are_refused(site: Site, raw: str) -> None:
    """A query string that is not valid UTF-8 gets a 400 or a 404, never an error of the server."""
    status = (await raw_answer(site, f"GET /api/session?id={raw} HTTP/1.1\r\nHost: 127.0.0.1"))[0]

    assert status in {400, 404}


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/overview", "/api/session?id=s"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
async def test_only_get_is_answered(http: aiohttp.ClientSession, path: str, method: str) -> None:
    """The page changes nothing: every method but GET is refused."""
    async with http.request(method, path) as answer:
        assert 405 == answer.status


@pytest.mark.parametrize("path", ["/static/app.js", "/../page.py", "/%2e%2e/page.py", "/api/", "/api/release"])
async def test_nothing_else_is_served(site: Site, path: str) -> None:
    """There are the page's files and its four questions, and nothing else."""
    status = (await raw_answer(site, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1"))[0]

    assert 404 == status


# --- who is kept out -------------------------------------------------------------------------------------------------


async def raw_answer(site: Site, request: str) -> tuple[int, str]:
    """The status and all else of the answer to exactly this request, which needs no closing blank line."""
    address = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"{request}\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer


@pytest.mark.parametrize("path", ["/", "/api/overview", "/app.js"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:50052",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "[2001:db8::1]",
        "0.0.0.0",
        "localhost, evil.example",
        "",
    ],
)
async def test_other_names_for_this_machine_are_refused(site: Site, path: str, host: str) -> None:
    """A foreign name that leads here, as in DNS rebinding, gets nothing."""
    status, answer = await raw_answer(site, f"GET {path} HTTP/1.1\r\nHost: {host}")

    assert status in {400, 403}
    assert "database" not in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "localhost:9", "LOCALHOST", "[::1]:80"])
async def test_names_of_loopback_are_welcome_with_any_port(site: Site, host: str) -> None:
    """A tunnel may lead here from another port of the viewer's own machine."""
    assert 200 == (await raw_answer(site, f"GET /api/overview HTTP/1.1\r\nHost: {host}"))[0]


@pytest.mark.parametrize("headers", ["", "\r\nHost: 127.0.0.1\r\nHost: evil.example"])
async def test_a_request_names_one_host(site: Site, headers: str) -> None:
    """Without a Host header, or with two, nothing is shown."""
    assert (await raw_answer(site, f"GET / HTTP/1.1{headers}"))[0] in {400, 403}


@pytest.mark.parametrize(("origin", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
async def test_other_pages_in_the_browser_get_no_data(http: aiohttp.ClientSession, origin: str, status: int) -> None:
    """What a browser sends for another page, even one on another port of this machine, is refused."""
    async with http.get("/api/overview", headers={"Sec-Fetch-Site": origin}) as answer:
        assert status == answer.status


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/overview", "/api/session?id=unknown", "/nothing"])
async def test_every_answer_tells_browsers_to_be_strict(http: aiohttp.ClientSession, path: str) -> None:
    """Scripts from here only, no frames around it, no guessing of types, nothing kept, no origins allowed."""
    async with http.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"].split("; ")

        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "nosniff" == answer.headers["X-Content-Type-Options"]
        assert "no-store" == answer.headers["Cache-Control"]
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Server" not in answer.headers


# --- the database is away --------------------------------------------------------------------------------------------


async def test_without_a_database_the_answers_say_so(tmp_path: Path) -> None:
    """While the database is away, the overview says so, other questions get a 503; afterwards all is as before."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.start()
    async with opened_site(mongo.uri, "away") as site, aiohttp.ClientSession(site.url) as http:
        await register(site.client, sessions=1)
        await mongo.stop()

        async def state(answers: bool) -> bool:
            status, found = await asked(http, "overview")
            return 200 == status and answers == found["database"]["answers"]

        await eventually(lambda: state(False), "the overview says that the database is away")
        status, found = await asked(http, "session", id="s-1")
        assert (503, "STORAGE_UNAVAILABLE") == (status, found["error"]["reason"])
        assert "mongodb" not in json.dumps(found)

        await mongo.start()
        await eventually(lambda: state(True), "the overview says that the database is back")
        assert 200 == (await asked(http, "session", id="s-1"))[0]
    await mongo.stop()
