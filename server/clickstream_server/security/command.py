"""The command `clickstream token`: makes, lists and revokes tokens."""

from __future__ import annotations

import argparse
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clickstream_server.failures import StartFailure
from clickstream_server.printing import printing

_VARIABLE = "CLICKSTREAM_TOKENS_FILE"


def add_token(commands: Any) -> None:
    from clickstream_server.security.roles import Role

    parser = commands.add_parser(
        "token",
        help="make, list and revoke tokens",
        description="Make, list and revoke the tokens of a server's tokens file. A server that runs takes "
        "changes within a second.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    new = actions.add_parser(
        "new",
        help="make a token",
        description="Make a token and print it, once: it is kept nowhere. Its line, which holds a hash, goes into the "
        "tokens file; without one it is printed on standard error. A name may have several tokens: to replace one, "
        "make another, let the clients have it, then revoke the old one by its key id.",
        epilog="Only the token goes to standard output: clickstream token new shop --role producer > shop.token",
    )
    new.add_argument("name", metavar="NAME", help="who has it; the server's log and metrics call it so")
    new.add_argument(
        "--role",
        action="append",
        required=True,
        choices=[role.value for role in Role],
        help="what it may do; may be given several times",
    )
    new.add_argument("--expires-days", metavar="N", type=_days, help="how long it is good for (default: until revoked)")
    _add_file(new)
    new.set_defaults(run=_new)
    listed = actions.add_parser("list", help="list the tokens", description="List the tokens of the file.")
    _add_file(listed)
    listed.set_defaults(run=_list)
    revoke = actions.add_parser(
        "revoke",
        help="revoke tokens",
        description="Take tokens out of the file. Calls with them are refused from then on, streams that run end.",
    )
    revoke.add_argument("which", metavar="NAME|KEY-ID", help="all tokens of this name, or the one with this key id")
    _add_file(revoke)
    revoke.set_defaults(run=_revoke)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file", type=Path, default=os.environ.get(_VARIABLE) or None, help=f"the tokens file ({_VARIABLE})"
    )


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError("must be a number of days, 36,500 at most")
    return days


def _new(given: argparse.Namespace) -> int:
    from clickstream_server.security.roles import Role
    from clickstream_server.security.token_file import change
    from clickstream_server.security.tokens import TokensFault, added, new_token

    try:
        token, line = new_token(given.name, map(Role, given.role), given.expires_days)
    except ValueError as error:
        raise StartFailure(str(error)) from error
    if given.file is None:
        _say(f"no tokens file is set ({_VARIABLE} or --file): put this line into it\n{line.text()}")
    else:
        try:
            change(given.file, lambda content: added(content, line))
        except (OSError, TokensFault) as error:
            raise StartFailure(f"{given.file} cannot be changed: {_why(error)}; no token was made") from error
        _say(
            f"{line.name} ({', '.join(given.role)}), key id {line.key_id}, stands in {given.file}. Keep the token: it "
            "is not shown again."
        )
    with printing():
        print(token)
    return 0


def _list(given: argparse.Namespace) -> int:
    from rich.table import Table

    from clickstream_server.console import Console
    from clickstream_server.security.roles import named
    from clickstream_server.security.token_file import lines_in

    table = Table("name", "roles", "key id", "expires", box=None, pad_edge=False)
    now = datetime.now(UTC)
    for line in sorted(lines_in(_file(given)).values(), key=lambda line: line.name):  # of one name in the file's order
        expires = "never" if line.expires_at is None else f"{line.expires_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(
            line.name, named(line.roles), line.key_id, f"{expires} (expired)" if line.expired(now) else expires
        )
    Console(soft_wrap=True, highlight=False).print(table)
    return 0


def _revoke(given: argparse.Namespace) -> int:
    from clickstream_server.security.token_file import change, lines_in
    from clickstream_server.security.tokens import TokensFault, without

    path = _file(given)
    found = [line for line in lines_in(path).values() if given.which in {line.name, line.key_id}]
    if not found:
        raise StartFailure(f"{path} has no token with the name or key id {given.which!r}: see `clickstream token list`")
    try:
        change(path, lambda content: without(content, [line.key_id for line in found]))
    except (OSError, TokensFault) as error:
        raise StartFailure(f"{path} cannot be changed: {_why(error)}; nothing was revoked") from error
    with printing():
        for line in found:
            print(f"revoked: {line.name}, key id {line.key_id}")
    return 0


def _file(given: argparse.Namespace) -> Path:
    if given.file is None:
        raise StartFailure(f"no tokens file is set: give --file, or set {_VARIABLE}")
    return Path(given.file)


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _say(text: str) -> None:
    print(f"clickstream: {text}", file=sys.stderr)
