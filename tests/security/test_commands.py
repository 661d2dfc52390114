"""The commands that are clients, against a server that asks who calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guarded import Guarded

from certificates import Authority
from clickstream import Tls
from harness import run_program

PLAIN = dict.fromkeys(("CLICKSTREAM_TLS_CA", "CLICKSTREAM_TLS_CLIENT_CERT", "CLICKSTREAM_TLS_CLIENT_KEY"), "")


@pytest.fixture
async def guarded(mongodb_uri: str, database: str, tmp_path: Path, authority: Authority) -> AsyncIterator[Guarded]:
    """A server with mutual TLS and tokens; the file of each token is named for its role."""
    pair = authority.pair()
    async with Guarded.started(
        mongodb_uri, database, tmp_path / "tokens", tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.ca
    ) as found:
        for name, token in found.tokens.items():
            (tmp_path / f"{name}.token").write_text(token + "\n")
        yield found


async def test_every_command_gets_through_with_flags_or_variables(
    guarded: Guarded, authority: Authority, tmp_path: Path
) -> None:
    """Ping, replay, export, import and tail take certificates and tokens from flags, and from the environment."""
    mine = authority.pair("client")
    flags = ["--target", guarded.address, "--tls-ca", str(authority.ca)]
    flags += ["--tls-client-cert", str(mine.cert), "--tls-client-key", str(mine.key)]
    variables = {
        "CLICKSTREAM_TARGET": guarded.address,
        "CLICKSTREAM_TLS_CA": str(authority.ca),
        "CLICKSTREAM_TLS_CLIENT_CERT": str(mine.cert),
        "CLICKSTREAM_TLS_CLIENT_KEY": str(mine.key),
    }

    def token(name: str) -> list[str]:
        return ["--token-file", str(tmp_path / f"{name}.token")]

    exported = tmp_path / "out.jsonl"
    assert (0, f"{guarded.address} is SERVING\n", "") == await run_program("ping", *flags)
    code, _, errors = await run_program("replay", "--sample", "3", *flags, *token("operator"))
    assert 0 == code, errors
    code, _, errors = await run_program("export", "--output", str(exported), *flags, *token("consumer"))
    assert 0 == code, errors
    code, _, errors = await run_program(
        "import", str(exported), **variables, CLICKSTREAM_TOKEN=guarded.tokens["operator"]
    )
    assert 0 == code, errors
    code, out, errors = await run_program(
        "export", **variables, CLICKSTREAM_TOKEN_FILE=str(tmp_path / "consumer.token")
    )
    assert 0 == code, errors
    assert 3 == json.loads(out.splitlines()[-1])["trailer"]["sessions"]
    tls = Tls(authority.ca, mine.cert, mine.key)
    async with guarded.client("operator", tls=tls) as client:
        batch = (await client.release_batch("r")).batch
    code, out, errors = await run_program("tail", batch.batch_id, "--json", *flags, *token("consumer"))
    assert (0, 3) == (code, out.count("\n")), errors


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ([], {}, "set CLICKSTREAM_TOKEN_FILE or CLICKSTREAM_TOKEN"),
        ([], {"CLICKSTREAM_TOKEN": "{consumer}"}, "the token of consumer has the roles consumer"),
        ([], {"CLICKSTREAM_TOKEN": "two words"}, "the token must be one word"),
        ([], {"CLICKSTREAM_TOKEN": "a", "CLICKSTREAM_TOKEN_FILE": "b"}, "are both set: which one is it to be?"),
        (["--token-file", "gone"], {}, "the token in gone cannot be read: No such file or directory"),
        (["--tls-ca", "gone"], {}, "cannot read gone: No such file or directory"),
        (["--tls-client-cert", "x"], {}, "client_cert and client_key belong together"),
        (
            ["--tls-client-cert", "gone", "--tls-client-key", __file__],
            {},
            "cannot read gone: No such file or directory",
        ),
        (["--target", "10.0.0.1:1"], PLAIN | {"CLICKSTREAM_TOKEN": "a"}, "could read the token"),
        ([], {"CLICKSTREAM_TLS": "perhaps"}, "CLICKSTREAM_TLS must be 1 or 0"),
        ([], PLAIN | {"CLICKSTREAM_TOKEN": "a"}, "if it has TLS, use TLS"),
        ([], PLAIN | {"CLICKSTREAM_TLS": "1", "CLICKSTREAM_TOKEN": "a"}, "give its own (ca)"),
    ],
)
async def test_what_is_wrong_is_said_without_a_traceback(
    guarded: Guarded, authority: Authority, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    """A missing, wrong or unreadable token or certificate ends a command with exit code 1 and words that help."""
    mine = authority.pair("client")
    usual = {
        "CLICKSTREAM_TARGET": guarded.address,
        "CLICKSTREAM_TLS_CA": str(authority.ca),
        "CLICKSTREAM_TLS_CLIENT_CERT": str(mine.cert),
        "CLICKSTREAM_TLS_CLIENT_KEY": str(mine.key),
    }
    if "--tls-client-cert" in arguments:
        usual = {"CLICKSTREAM_TARGET": guarded.address}
    given = {name: value.format(**guarded.tokens) for name, value in variables.items()}
    code, _, errors = await run_program("replay", "--sample=3", *arguments, **usual | given)

    assert 1 == code
    assert words in errors
    assert "Traceback" not in errors
    assert not any(token in errors for token in guarded.tokens.values())


@pytest.mark.parametrize(
    "command",
    [["ping"], ["replay", "--sample=3"], ["import", __file__], ["export"], ["tail"]],
    ids=lambda found: found[0],
)
@pytest.mark.parametrize(
    ("file", "words"), [("gone", "cannot be read: No such file or directory"), ("empty", "the token must be one word")]
)
async def test_a_token_file_without_a_token_is_one_clear_line(
    tmp_path: Path, command: list[str], file: str, words: str
) -> None:
    """Every command says what is wrong with its token file, and does not reach for the server."""
    (tmp_path / "empty").touch()
    code, _, errors = await run_program(*command, "--target", "127.0.0.1:1", "--token-file", str(tmp_path / file))

    assert 1 == code
    (line,) = errors.splitlines()
    assert words in line
