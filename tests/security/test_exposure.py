"""Where a server may listen, and where a client may send its token."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from guarded import Guarded

from clickstream import ClickstreamClient, SyncClickstreamClient, Tls
from clickstream.access import is_local
from clickstream_server.config import load_settings, mistaken_settings
from clickstream_server.failures import StartFailure
from clickstream_server.listening import exposure
from harness import ServerProcess, ended, run_program

TLS = {"tls_cert": "server.pem", "tls_key": "server.key"}
TOKENS = {"tokens_file": "tokens"}
MUTUAL = {**TLS, "tls_client_ca": "clients.pem"}
TOKEN = "cst_0123456789abcdef_" + 64 * "0"


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.9.9.9:1"])
@pytest.mark.parametrize("given", [{}, TLS, TOKENS, MUTUAL])
def test_on_loopback_nothing_is_asked_for(listen: str, given: dict[str, str]) -> None:
    """A server on loopback needs neither TLS nor tokens."""
    assert "" == exposure(load_settings({"listen": listen, **given}, {}))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:1", "host.example:1", "[::ffff:10.0.0.1]:1"])
@pytest.mark.parametrize("given", [{**TLS, **TOKENS}, MUTUAL, {**MUTUAL, **TOKENS}])
def test_with_tls_and_who_may_call_any_address_will_do(listen: str, given: dict[str, str]) -> None:
    """TLS with tokens or client certificates may be reached from elsewhere."""
    assert "" == exposure(load_settings({"listen": listen, **given}, {}))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:1", "host.example:1", "localhost.:1", "127.1:1"])
@pytest.mark.parametrize(
    ("given", "words", "unsaid"),
    [
        ({}, ["without TLS", "without tokens"], []),
        (TLS, ["without tokens"], ["without TLS"]),
        (TOKENS, ["without TLS"], ["without tokens"]),
    ],
)
def test_what_is_open_to_strangers_is_refused_or_warned_of(
    listen: str, given: dict[str, str], words: list[str], unsaid: list[str]
) -> None:
    """Off loopback, what is missing is named: as an error, or with `insecure` as what to warn of."""
    with pytest.raises(StartFailure) as raised:
        exposure(load_settings({"listen": listen, **given}, {}))
    warned = exposure(load_settings({"listen": listen, **given}, {"CLICKSTREAM_INSECURE": "1"}))

    for said in (str(raised.value), warned):
        assert all(word in said for word in words)
        assert not any(word in said for word in unsaid)
        assert listen in said
    assert "--insecure" in str(raised.value)


async def test_strangers_are_not_served_by_mistake() -> None:
    """`clickstream serve` on all addresses ends with one line, before it starts a database."""
    code, out, errors = await run_program("serve", "--listen=0.0.0.0:0")

    assert (1, "") == (code, out)
    assert errors.startswith(
        "clickstream: CLICKSTREAM_LISTEN (--listen): other machines can reach 0.0.0.0:0: without TLS"
    )
    assert 1 == errors.count("\n")


async def test_insecure_serves_and_warns(mongodb_uri: str, database: str) -> None:
    """With `insecure` the server serves, and its log has a warning."""
    server = await ServerProcess.start(
        mongodb_uri=mongodb_uri, mongodb_database=database, listen="0.0.0.0:0", insecure="true"
    )
    async with ClickstreamClient(server.address) as client:
        await client.list_batches()

    assert 0 == await server.stop()
    assert (
        "WARNING clickstream_server.listening: insecure, as asked for: other machines can reach 0.0.0.0:0"
        in server.errors
    )


async def test_insecure_is_a_switch_on_the_command_line() -> None:
    """`--insecure` needs no value, and nonsense is refused."""
    _, _, needless = await run_program("serve", "--insecure", "--listen=0.0.0.0:99999")
    code, _, nonsense = await run_program("serve", "--insecure=perhaps")

    assert needless.startswith("clickstream: CLICKSTREAM_LISTEN (--listen): must be an address and a port")
    assert (1, True) == (code, nonsense.startswith("clickstream: CLICKSTREAM_INSECURE (--insecure): "))


def test_a_clients_variable_is_not_taken_for_the_servers() -> None:
    """A client's variable where the server's is missing is asked about; beside the server's it is fine."""
    mistaken = {"CLICKSTREAM_TOKEN_FILE": "t", "CLICKSTREAM_TLS_CA": "c", "CLICKSTREAM_TLS": "1"}
    right = {**mistaken, "CLICKSTREAM_TOKENS_FILE": "t", "CLICKSTREAM_TLS_CERT": "c", "CLICKSTREAM_TLS_CLIENT_CA": "c"}

    said = mistaken_settings(load_settings({}, mistaken), mistaken)
    assert 3 == len(said)
    assert "CLICKSTREAM_TOKEN_FILE is for clients, and the server has no CLICKSTREAM_TOKENS_FILE" in said[0]
    assert [] == mistaken_settings(load_settings({}, right), right)
    assert [] == mistaken_settings(load_settings({}, {}), {})


@pytest.mark.parametrize(
    ("given", "words"),
    [({"tls": "ca.pem"}, "tls must be True, False or a Tls, not str"), ({"token": b"x"}, "token must be a string")],
)
def test_arguments_of_another_type_are_refused_at_once(given: dict[str, Any], words: str) -> None:
    """A path in place of a Tls, bytes in place of a token: the client is not made."""
    with pytest.raises(TypeError, match=words):
        ClickstreamClient(**given)


@pytest.mark.parametrize("scheme", ["http://", "https://"])
def test_a_target_is_no_web_address(scheme: str) -> None:
    """What is copied with its scheme is refused at once, instead of being looked for under that name."""
    assert not is_local(f"{scheme}127.0.0.1:50051")
    with pytest.raises(ValueError, match=f"must be an address such as 127.0.0.1:50051, without the scheme of {scheme}"):
        ClickstreamClient(f"{scheme}127.0.0.1:50051")


@pytest.mark.parametrize(
    "target",
    [
        *(
            "127.0.0.1:50051",
            "127.0.0.1",
            "localhost:50051",
            "[::1]:50051",
            "::1",
            "dns:///localhost:1",
            "dns:127.0.0.1:1",
        ),
        *("ipv4:127.0.0.1:1,127.0.0.2:2", "ipv6:[::1]:1", "unix:/run/clickstream", "unix:///run/clickstream"),
    ],
)
def test_targets_on_this_machine_are_known(target: str) -> None:
    """To these, a token may go without TLS."""
    assert is_local(target)
    ClickstreamClient(target, token=TOKEN)


@pytest.mark.parametrize(
    "target",
    [
        *(
            "10.0.0.1:1",
            "host:1",
            "localhost.evil:1",
            "127.0.0.1.evil:1",
            "127.0.0.1@evil:1",
            "dns://10.0.0.1/localhost:1",
        ),
        *("dns:///evil:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "ipv6:[::2]:1", "xds:///127.0.0.1", "", ":1", "0.0.0.0:1"),
        *("127.0.0.1:1/evil", "evil#127.0.0.1:1", "vsock:1:1", "127.0.0.1:1,evil:1"),
    ],
)
def test_a_token_is_not_sent_in_clear_to_elsewhere(target: str) -> None:
    """Every other target raises for either client, without the token in the text, unless it is asked for."""
    assert not is_local(target)
    for client in (ClickstreamClient, SyncClickstreamClient):
        with pytest.raises(ValueError, match="without TLS") as raised:
            client(target, token=TOKEN)
        assert TOKEN not in str(raised.value)
    ClickstreamClient(target, token=TOKEN, token_in_clear=True)
    ClickstreamClient(target, token=TOKEN, tls=True)
    ClickstreamClient(target, tls=Tls())


LISTS = """
import sys
from clickstream import ClickstreamError, SyncClickstreamClient
with SyncClickstreamClient(sys.argv[1], token=sys.argv[2] or None, deadline_s=5) as client:
    try:
        client.list_batches()
    except ClickstreamError as error:
        print(error.reason)
    else:
        print("listed")
"""


@pytest.mark.parametrize("with_token", [True, False])
async def test_a_token_in_clear_goes_through_no_proxy(guarded: Guarded, *, with_token: bool) -> None:
    """Without TLS a call with a token passes by the proxy that the environment names, where one without takes it."""
    passed: list[asyncio.StreamWriter] = []
    proxy = await asyncio.start_server(lambda _, writer: (passed.append(writer), writer.close()), "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with proxy:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LISTS, guarded.address, guarded.tokens["consumer"] if with_token else ""),
            env={**os.environ, "http_proxy": f"http://127.0.0.1:{port}", "no_proxy": "", "no_grpc_proxy": ""},
            stdout=asyncio.subprocess.PIPE,
        )
        code, said, _ = await ended(process)

    assert 0 == code
    assert (["listed"] if with_token else [""]) == said.splitlines()
    assert with_token is not bool(passed)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\n", "\u00e9", "a\x00"])
def test_a_token_that_cannot_be_sent_is_refused_unshown(token: str) -> None:
    """An empty token, or one with a line's end or other letters, raises at once; the text does not show it."""
    with pytest.raises(ValueError, match="one word") as raised:
        ClickstreamClient(token=token)
    assert not token.strip() or token not in str(raised.value)


async def test_a_tokens_file_that_cannot_be_used_keeps_the_server_from_starting(tmp_path: Path) -> None:
    """A missing, unreadable or open tokens file is named in one line."""
    (tmp_path / "bad").write_text("nonsense")
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    for name, words in (
        ("gone", "cannot be read: No such file or directory"),
        ("bad", "cannot be used: line 1: must have 5 parts, NAME ROLES KEY-ID HASH EXPIRES, and has 1"),
        ("open", "cannot be used: everyone on this machine may write to it, and so let himself in: chmod o-w it"),
        ("", "cannot be read: Is a directory"),
    ):
        code, out, errors = await run_program("serve", "--listen=127.0.0.1:0", f"--tokens-file={tmp_path / name}")

        assert (1, "") == (code, out)
        assert f"clickstream: CLICKSTREAM_TOKENS_FILE: {tmp_path / name} {words}\n" == errors
