"""Tokens, and the lines that stand for them in the tokens file. Pure.

A token is `cst_<key id>_<secret>`. The secret has 256 random bits, so guessing is hopeless, and a fast hash is right:
slow ones are for passwords, which people choose. The file has one line a token:

    NAME  ROLES  KEY-ID  sha256:SALT:HASH  EXPIRES

The key id finds the line without a search, and is no secret. A name may have several lines, so that a new token can be
in use before the old one is taken away.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from clickstream_server.security.roles import Role, named

FILE_BYTES_MAX = 4 * 1024 * 1024
NEVER = "never"
_HEAD = "# Tokens of the clickstream service: NAME ROLES KEY-ID HASH EXPIRES. Remove a line to revoke its token.\n"
_TOKEN = re.compile(r"cst_([0-9a-f]{16})_[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_HASH = re.compile(r"sha256:([0-9a-f]{32}):([0-9a-f]{64})", re.ASCII)
_PARTS = ("NAME", "ROLES", "KEY-ID", "HASH", "EXPIRES")
_KEY_ID_AT = _PARTS.index("KEY-ID")
_BYTE_ORDER_MARK = "\ufeff"
"""Some editors begin a file with it."""


class TokensFault(ValueError):
    """The file cannot be used. The text names the line, and holds nothing of it: it may be a token put there."""


@dataclass(frozen=True, slots=True)
class TokenLine:
    """What the file knows of a token. `expires_at` None: never."""

    name: str
    roles: frozenset[Role]
    key_id: str
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    expires_at: datetime | None = None

    def matches(self, token: str) -> bool:
        """Whether this is the token. Takes the same time for every token of the right form."""
        return hmac.compare_digest(_digest(self.salt, token), self.digest)

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def text(self) -> str:
        """The line as it stands in the file, without its end."""
        expires = NEVER if self.expires_at is None else self.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        roles = named(self.roles).replace(" ", "")
        return f"{self.name} {roles} {self.key_id} sha256:{self.salt.hex()}:{self.digest.hex()} {expires}"


NOBODY = TokenLine("", frozenset(), "", bytes(16), bytes(32))
"""What a token with an unknown key id is compared with, so that this takes the same time. Matches none."""


def new_token(name: str, roles: Iterable[Role], expires_days: float | None = None) -> tuple[str, TokenLine]:
    """A new token, which is told once and kept nowhere, and its line. Raises ValueError for an unusable name."""
    if not is_name(name):
        raise ValueError("a name has 1 to 64 letters, digits and any of _.@- and begins with a letter or digit")
    key_id, salt = secrets.token_hex(8), secrets.token_bytes(16)
    token = f"cst_{key_id}_{secrets.token_hex(32)}"
    expires_at = None
    if expires_days is not None:
        expires_at = (datetime.now(UTC) + timedelta(days=expires_days)).replace(microsecond=0)
    return token, TokenLine(name, frozenset(roles), key_id, salt, _digest(salt, token), expires_at)


def key_id_of(token: str) -> str | None:
    """The key id of what has the form of a token; None if it has not."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def read_lines(content: bytes) -> dict[str, TokenLine]:
    """The tokens of a file by their key ids. Raises TokensFault."""
    if len(content) > FILE_BYTES_MAX:
        raise TokensFault(f"it has more than {FILE_BYTES_MAX} bytes")
    found: dict[str, TokenLine] = {}
    for number, (_, parts) in enumerate(_lines(content), 1):
        if not parts:
            continue
        try:
            token = _read(parts)
        except ValueError as error:
            raise TokensFault(f"line {number}: {error}") from None
        if token.key_id in found:
            raise TokensFault(f"line {number}: the key id stands in an earlier line, too")
        found[token.key_id] = token
    return found


def added(content: bytes, line: TokenLine) -> bytes:
    """The file's content with one line more."""
    before = content or _HEAD.encode()
    return before + (b"" if before.endswith(b"\n") else b"\n") + line.text().encode() + b"\n"


def without(content: bytes, key_ids: Iterable[str]) -> bytes:
    """The file's content without these tokens; all else, comments too, stays as it is."""
    gone = set(key_ids)
    kept = [line for line, parts in _lines(content) if len(parts) != len(_PARTS) or parts[_KEY_ID_AT] not in gone]
    return "\n".join(kept).encode()


def _lines(content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Each line without its end, and its parts: none of a comment. Raises TokensFault.

    Reading and revoking both look at a file so: what one took for a token and the other did not could not be revoked.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise TokensFault("it is not UTF-8 text") from None
    for number, line in enumerate(text.split("\n")):
        parts = (line if number else line.removeprefix(_BYTE_ORDER_MARK)).split()
        yield line, [] if parts and parts[0].startswith("#") else parts


def _read(parts: list[str]) -> TokenLine:
    if len(parts) != len(_PARTS):
        raise ValueError(f"must have {len(_PARTS)} parts, {' '.join(_PARTS)}, and has {len(parts)}")
    name, roles, key_id, digest, expires = parts
    if not is_name(name):
        raise ValueError("NAME must have 1 to 64 letters, digits and any of _.@-")
    if not set(roles.split(",")) <= set(Role):
        raise ValueError(f"ROLES must be some of {named(tuple(Role))}, with commas between")
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError("KEY-ID must have 16 hexadecimal digits")
    if (found := _HASH.fullmatch(digest)) is None:
        raise ValueError("HASH must be sha256:, a salt and a hash, as `clickstream token new` prints them")
    kinds = frozenset(map(Role, roles.split(",")))
    return TokenLine(name, kinds, key_id, bytes.fromhex(found[1]), bytes.fromhex(found[2]), _expiry(expires))


def _expiry(text: str) -> datetime | None:
    if text == NEVER:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"EXPIRES must be {NEVER}, a date, or a time such as 2027-01-31T12:00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _digest(salt: bytes, token: str) -> bytes:
    return hashlib.sha256(salt + token.encode()).digest()
