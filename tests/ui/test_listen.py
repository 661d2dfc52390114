"""Where the page is, and what happens if it cannot be there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import aiohttp
import pytest

from clickstream import ClickstreamClient, Session, Unavailable
from clickstream_server import app
from clickstream_server.config import Settings, is_loopback, load_settings
from clickstream_server.failures import StartFailure
from harness import ServerProcess, run_program
from sites import Site

ENV = "CLICKSTREAM_UI_LISTEN"
DEFAULT = "127.0.0.1:50052"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return answer.status


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.5.6.7:0"])
async def test_the_server_says_where_the_page_is(mongodb_uri: str, database: str, listen: str) -> None:
    """`clickstream serve` prints an address under which the page is."""
    if listen.startswith("[") and not socket.has_ipv6:
        pytest.skip("needs IPv6")
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, ui_listen=listen)

    assert 200 == await status_of(server.page)
    assert 0 == await server.stop()


@pytest.mark.parametrize("off", ["off", "OFF", ""])
async def test_off_or_empty_means_no_page(mongodb_uri: str, database: str, off: str) -> None:
    """With `off` or an empty value there is no page, and nothing is said of it."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, environment={ENV: off})

    assert [] == [line for line in server.output if "page" in line]


async def test_an_address_that_was_asked_for_must_be_free(mongodb_uri: str, database: str, taken: str) -> None:
    """If the address was given and is in use, the server does not start, and one line says why."""
    code, out, errors = await run_program(
        "serve",
        "--listen=127.0.0.1:0",
        f"--ui-listen={taken}",
        f"--mongodb-uri={mongodb_uri}",
        f"--mongodb-database={database}",
    )

    assert (1, "") == (code, out)
    assert f"clickstream: cannot show the page on {taken}: the port is in use (CLICKSTREAM_UI_LISTEN)\n" == errors


async def test_a_second_server_serves_without_the_page(mongodb_uri: str, database: str) -> None:
    """If the default address is in use, the server serves all the same, and one line says that there is no page."""
    settings = Settings(listen="127.0.0.1:0", mongodb_uri=mongodb_uri, mongodb_database=database, drain_s=1.0)
    with ExitStack() as stack:
        with suppress(OSError):  # somebody has it already: just as well
            stack.enter_context(closing(socket.create_server(("127.0.0.1", 50052))))
        async with app.running(settings) as running, ClickstreamClient(running.address) as client:
            done = await client.register_session(Session(session_id="s"))

    assert 1 == done.session.session_number
    assert f"none, as {DEFAULT} cannot be had: the port is in use ({ENV} sets another)" == running.page


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:50052", "[::]:50052", "10.1.2.3:50052", "192.168.0.1:80", "example.com:80", "8.8.8.8:1"]
)
async def test_an_address_that_others_can_reach_is_refused(listen: str) -> None:
    """Without TLS and tokens, an address beyond loopback is refused at the start, with a line that says why."""
    code, out, errors = await run_program("serve", f"--ui-listen={listen}")

    assert (1, "") == (code, out)
    assert errors.startswith(f"clickstream: {ENV} (--ui-listen): must be a loopback address such as {DEFAULT}")
    assert 1 == errors.count("\n")


@pytest.mark.parametrize("listen", ["127.0.0.1", ":80", "127.0.0.1:99999", "127.0.0.1:http", "nonsense"])
def test_an_address_that_makes_no_sense_is_refused(listen: str) -> None:
    """What is neither an address with a port nor off names the setting."""
    with pytest.raises(StartFailure, match=ENV):
        load_settings({"ui_listen": listen}, {})


@pytest.mark.parametrize(
    ("listen", "given", "shown"),
    [
        ("127.0.0.1:1", {}, True),
        ("localhost:1", {}, True),
        ("[::1]:1", {}, True),
        ("0.0.0.0:1", {}, False),
        ("10.0.0.1:1", {}, False),
        ("[::]:1", {}, False),
        ("0.0.0.0:1", {ENV: DEFAULT}, True),
        ("127.0.0.1:1", {ENV: "off"}, False),
        ("127.0.0.1:1", {ENV: ""}, False),
    ],
)
def test_there_is_a_page_beside_a_server_on_loopback(listen: str, given: dict[str, str], shown: bool) -> None:
    """By default there is a page if the server listens on loopback only; elsewhere it has to be asked for."""
    assert shown is load_settings({"listen": listen}, given).ui_shown


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.1", "::1", "[::1]", "localhost"])
def test_loopback_is_known(host: str) -> None:
    """Addresses that only this machine reaches."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "128.0.0.1", "localhost.", "127.1", "2130706433", "example.com"])
def test_anything_else_is_not_loopback(host: str) -> None:
    """Other addresses and names, and forms of addresses that programs read differently."""
    assert not is_loopback(host)


async def test_someone_who_keeps_a_connection_does_not_hold_up_a_stop(mongodb_uri: str, database: str) -> None:
    """The server stops though a browser has a connection open, and one that sends half a request."""
    server = await ServerProcess.start(
        mongodb_uri=mongodb_uri, mongodb_database=database, ui_listen="127.0.0.1:0", drain_s=1
    )
    port = int(server.page.rpartition(":")[2])
    _, idle = await asyncio.open_connection("127.0.0.1", port)
    _, half = await asyncio.open_connection("127.0.0.1", port)
    half.write(b"GET / HTTP/1.1\r\nHost:")
    await half.drain()

    assert 0 == await server.stop()
    idle.close()
    half.close()


async def test_a_client_of_the_page_is_told(site: Site) -> None:
    """Who calls the page's port is told that no gRPC answers there, and not that nobody does."""
    target = site.url.removeprefix("http://")
    code, _, errors = await run_program("ping", f"--target={target}")
    async with ClickstreamClient(target) as client:
        with pytest.raises(Unavailable, match="is no gRPC"):
            await client.get_session("s")

    assert 1 == code
    assert "what answers there is no gRPC" in errors
