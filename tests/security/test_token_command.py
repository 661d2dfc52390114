"""The command `clickstream token`, as an operator uses it."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path

import pytest

from clickstream_server.security.roles import Role
from clickstream_server.security.token_file import change
from clickstream_server.security.tokens import added, key_id_of, new_token, read_lines
from harness import run_program


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def made(file: Path, name: str, *arguments: str) -> str:
    """A token by the command."""
    code, out, errors = await run_program("token", "new", name, *arguments, f"--file={file}")
    assert 0 == code, errors
    return out.strip()


async def test_new_prints_the_token_alone_and_puts_its_line_into_the_file(tmp_path: Path) -> None:
    """The token is all that goes to standard output; the file, new and for its owner only, has its hash."""
    file = tmp_path / "tokens"
    code, out, errors = await run_program(
        "token", "new", "shop", "--role=producer", "--role=operator", CLICKSTREAM_TOKENS_FILE=str(file)
    )
    token = out.removesuffix("\n")
    (line,) = read_lines(file.read_bytes()).values()

    assert 0 == code
    assert line.matches(token)
    assert ("shop", {Role.PRODUCER, Role.OPERATOR}, None) == (line.name, line.roles, line.expires_at)
    assert f"key id {key_id_of(token)}" in errors
    assert token.rpartition("_")[2] not in errors + file.read_text()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


async def test_without_a_file_the_line_is_printed_for_the_operator_to_put(tmp_path: Path) -> None:
    """With no tokens file set, the line goes to standard error, whole, and the token still stands alone."""
    code, out, errors = await run_program("token", "new", "shop", "--role", "consumer")
    (line,) = read_lines(errors.splitlines()[1].encode()).values()

    assert 0 == code
    assert line.matches(out.removesuffix("\n"))


async def test_tokens_are_listed_and_revoked_by_name_or_key_id(tmp_path: Path) -> None:
    """A list shows every token, of one name the oldest first; a key id revokes one, a name all; the rest stays."""
    file = tmp_path / "tokens"
    first = await made(file, "shop", "--role=producer")
    second = await made(file, "shop", "--role=producer", "--expires-days=30")
    other = await made(file, "trainer", "--role=consumer")
    file.write_text(f"# ours\n{file.read_text()}")
    file.chmod(0o640)

    code, listed, _ = await run_program("token", "list", f"--file={file}")
    assert 0 == code
    rows = [re.split(r" {2,}", row.strip()) for row in listed.splitlines()[1:]]
    assert [("shop", key_id_of(first)), ("shop", key_id_of(second)), ("trainer", key_id_of(other))] == [
        (row[0], row[2]) for row in rows
    ]
    assert {"never"} == {row[3] for row in rows if row[2] != key_id_of(second)}

    code, out, _ = await run_program("token", "revoke", str(key_id_of(first)), f"--file={file}")
    assert (0, f"revoked: shop, key id {key_id_of(first)}\n") == (code, out)
    assert {key_id_of(second), key_id_of(other)} == set(read_lines(file.read_bytes()))
    code, out, _ = await run_program("token", "revoke", "shop", f"--file={file}")
    assert (0, 1) == (code, out.count("\n"))
    assert {key_id_of(other)} == set(read_lines(file.read_bytes()))
    assert file.read_text().startswith("# ours\n")
    assert 0o640 == stat.S_IMODE(file.stat().st_mode)


async def test_of_one_name_the_oldest_token_is_listed_first(tmp_path: Path) -> None:
    """Who made another token of the same name sees which the old one is, to revoke it."""
    file = tmp_path / "tokens"
    lines = [new_token("shop", [Role.PRODUCER])[1] for _ in range(8)]
    for line in lines:
        change(file, lambda content, line=line: added(content, line))  # type: ignore[misc]  # mypy: a lambda's default
    _, listed, _ = await run_program("token", "list", f"--file={file}")

    assert [line.key_id for line in lines] == [row.split()[2] for row in listed.splitlines()[1:]]


async def test_tokens_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    """Several commands at once lose no line."""
    file = tmp_path / "tokens"
    tokens = await asyncio.gather(*[made(file, f"t-{number}", "--role=producer") for number in range(6)])

    assert {key_id_of(token) for token in tokens} == set(read_lines(file.read_bytes()))
    assert ["tokens"] == names_in(tmp_path)


async def test_a_link_is_followed(tmp_path: Path) -> None:
    """If the file is a link, what it leads to is changed, and the link stays."""
    real, link = tmp_path / "real", tmp_path / "tokens"
    link.symlink_to(real)
    token = await made(link, "shop", "--role=producer")

    assert link.is_symlink()
    assert {key_id_of(token)} == set(read_lines(real.read_bytes()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "a b", "--role=producer"], "a name has 1 to 64 letters"),
        (["new", "shop"], "the following arguments are required: --role"),
        (["new", "shop", "--role=root"], "invalid choice: 'root'"),
        (["new", "shop", "--role=admin", "--expires-days=0"], "must be a number of days"),
        (["new", "shop", "--role=admin", "--expires-days=nan"], "must be a number of days"),
        (["revoke", "nobody"], "has no token with the name or key id 'nobody'"),
        (["list", "--file=gone"], "gone cannot be read: No such file"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Nonsense ends with an error that names it, no token and no change of the file."""
    file = tmp_path / "tokens"
    file.touch()
    before = file.read_bytes()
    code, out, errors = await run_program("token", *arguments, CLICKSTREAM_TOKENS_FILE=str(file))

    assert code in {1, 2}
    assert "" == out
    assert words in errors.splitlines()[-1]
    assert before == file.read_bytes()


@pytest.mark.parametrize(
    ("action", "spoilt"),
    [(["new", "other", "--role=admin"], None), (["revoke", "shop"], "nonsense\n"), (["list"], "nonsense\n")],
)
async def test_a_file_that_cannot_be_used_is_left_as_it_is(
    tmp_path: Path, action: list[str], spoilt: str | None
) -> None:
    """A file with a bad line, or one that everyone may write to, is not touched, and no token is printed."""
    file = tmp_path / "tokens"
    file.write_text(spoilt or "")
    file.chmod(0o666 if spoilt is None else 0o600)
    before = file.read_bytes()
    code, out, errors = await run_program("token", *action, f"--file={file}")

    assert (1, "", 1) == (code, out, errors.count("\n"))
    assert before == file.read_bytes()
    assert ["tokens"] == names_in(tmp_path)
