"""Tokens and the lines that stand for them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clickstream_server.security.roles import Role
from clickstream_server.security.token_file import TokenFile
from clickstream_server.security.tokens import (
    FILE_BYTES_MAX,
    NOBODY,
    TokensFault,
    added,
    key_id_of,
    new_token,
    read_lines,
    without,
)

TOKEN, LINE = new_token("shop", [Role.PRODUCER, Role.CONSUMER], 30)
GOOD = LINE.text()
PARTS = GOOD.split()


def unnamed(_parameter: object) -> str:
    """An id for a parametrised test that does not show its token, which is another one in each process."""
    return "x"


def with_part(place: int, text: str) -> str:
    return " ".join([*PARTS[:place], text, *PARTS[place + 1 :]])


def test_a_line_is_read_as_it_was_written() -> None:
    """A token's line, written and read, is the same line, and is the token's."""
    found = read_lines(added(b"", LINE))

    assert {LINE.key_id: LINE} == found
    assert found[LINE.key_id].matches(TOKEN)
    assert key_id_of(TOKEN) == LINE.key_id


def test_nothing_of_the_secret_stands_in_a_line() -> None:
    """A line and what Python shows of it hold the key id, and nothing else of the token; two have different salts."""
    secret = TOKEN.rpartition("_")[2]
    again = new_token("shop", [Role.PRODUCER])[1]

    assert secret not in GOOD
    assert not any(part in repr(LINE) for part in (secret, LINE.salt.hex(), str(LINE.salt), str(LINE.digest)))
    assert LINE.salt != again.salt
    assert LINE.key_id != again.key_id


def test_only_the_token_itself_matches() -> None:
    """A token with another secret does not match, and nothing matches nobody."""
    assert not LINE.matches(TOKEN[:-1] + ("0" if TOKEN[-1] != "0" else "1"))
    assert not LINE.matches(new_token("shop", [Role.ADMIN])[0])
    assert not NOBODY.matches(TOKEN)


@pytest.mark.parametrize(
    "text", ["", "cst_", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), f" {TOKEN}", TOKEN + "\n", "é" * 85], ids=unnamed
)
def test_what_has_not_the_form_of_a_token_is_none(text: str) -> None:
    """Cut off, with something added, in capitals: no token."""
    assert key_id_of(text) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (TOKEN, "line 2: must have 5 parts"),
        (f"shop producer {TOKEN} x y", "line 2: KEY-ID"),
        (with_part(0, "-shop"), "line 2: NAME"),
        (with_part(0, "é"), "line 2: NAME"),
        (with_part(1, "producer,root"), "line 2: ROLES"),
        (with_part(1, "Producer"), "line 2: ROLES"),
        (with_part(1, ","), "line 2: ROLES"),
        (with_part(2, PARTS[2][:-1]), "line 2: KEY-ID"),
        (with_part(3, TOKEN), "line 2: HASH"),
        (with_part(3, PARTS[3][:-1]), "line 2: HASH"),
        (with_part(4, "tomorrow"), "line 2: EXPIRES"),
        (with_part(4, "0000-01-01"), "line 2: EXPIRES"),
        (f"{GOOD} more", "line 2: must have 5 parts"),
        (f"{GOOD}\n{GOOD}", "line 3: the key id"),
    ],
    ids=unnamed,
)
def test_a_line_that_cannot_be_used_is_named_and_not_shown(line: str, words: str) -> None:
    """A bad line makes the whole file unusable; what is said of it has its number and nothing of its content."""
    with pytest.raises(TokensFault, match=words) as raised:
        read_lines(f"# head\n{line}\n".encode())

    assert not any(part in str(raised.value) for part in (TOKEN, PARTS[2], PARTS[3]))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00" * (FILE_BYTES_MAX + 1)], ids=unnamed)
def test_what_is_no_text_or_without_end_is_refused(content: bytes) -> None:
    """Bytes that are no UTF-8, and a file beyond the bound, are not tokens."""
    with pytest.raises(TokensFault):
        read_lines(content)


@pytest.mark.parametrize("expires", ["2027-01-31", "2027-01-31T00:00:00Z", "2027-01-31T01:00:00+01:00"])
def test_an_expiry_may_be_a_date_or_a_time(expires: str) -> None:
    """A date means its beginning in UTC."""
    (line,) = read_lines(with_part(4, expires).encode()).values()

    assert datetime(2027, 1, 31, tzinfo=UTC) == line.expires_at
    assert (False, True) == (
        line.expired(datetime(2027, 1, 30, 23, 59, tzinfo=UTC)),
        line.expired(datetime(2027, 1, 31, tzinfo=UTC)),
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_editors_may_leave_their_marks(end: str) -> None:
    """A byte order mark, Windows' line ends, no line end at all, comments and empty lines do no harm."""
    content = ("\ufeff# mine\n\n" + GOOD + end).encode()
    other = new_token("other", [Role.ADMIN])[1]

    assert {LINE.key_id: LINE} == read_lines(content)
    assert {LINE.key_id, other.key_id} == set(read_lines(added(content, other)))


def test_removing_a_line_leaves_all_else() -> None:
    """A revoked token's line is gone; comments, other lines and a comment that names the same key id stay."""
    other = new_token("other", [Role.ADMIN])[1]
    before = f"# {GOOD}\n{GOOD}\n# end\n{other.text()}"

    assert f"# {GOOD}\n# end\n{other.text()}" == without(before.encode(), [LINE.key_id]).decode()


@pytest.mark.parametrize(
    "gap", [c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace() and c != "\n"], ids=ascii
)
def test_whatever_is_read_as_a_token_can_be_revoked(gap: str) -> None:
    """A line that counts, also one pasted with other spaces than plain ones, is gone when its token is revoked."""
    other = new_token("other", [Role.ADMIN])[1]
    content = f"\ufeff{gap}{gap.join(PARTS)}{gap}\n{other.text()}\n".encode()
    assert {LINE.key_id, other.key_id} == set(read_lines(content))

    assert {other.key_id} == set(read_lines(without(content, [LINE.key_id])))


@pytest.mark.parametrize("seen", [b"", b"# ours\n"])
def test_a_file_that_is_being_written_over_ends_nothing(tmp_path: Path, seen: bytes) -> None:
    """A look between a file's emptying and its writing changes nothing; a file that stays empty lets nobody in."""
    path = tmp_path / "tokens"
    path.write_bytes(GOOD.encode())
    tokens = TokenFile(path)
    for _ in range(2):
        for content in (seen, GOOD.encode()):
            path.write_bytes(content)
            tokens.look()
            assert {LINE.key_id: LINE} == tokens.lines

    path.write_bytes(seen)
    tokens.look()
    tokens.look()
    assert {} == tokens.lines


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 65, "a\n", "#a", "a,b", "é", "-a"])
def test_a_name_that_no_line_can_hold_is_refused(name: str) -> None:
    """A name is one short word of plain letters, so that it cannot forge lines, of the file or of the log."""
    with pytest.raises(ValueError, match="a name has"):
        new_token(name, [Role.PRODUCER])
