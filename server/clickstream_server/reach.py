"""How the commands that are clients reach a server: its address, TLS, a token; how large its messages are.

Imports nothing that takes time.

A token is read from a file or the environment, never from the command line, where everyone on the machine can see it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clickstream_server.failures import StartFailure

if TYPE_CHECKING:
    from clickstream.access import Access
    from clickstream.credentials import Tls, Token
    from clickstream.errors import ClickstreamError

_FLAGS = {"--tls-ca": "tls_ca", "--tls-client-cert": "tls_client_cert", "--tls-client-key": "tls_client_key"}
_PREFIX = "CLICKSTREAM_"
MESSAGE_SIZE_FLAG = "--message-bytes-max"
_FLAGS_OF_FIELDS = {"events_limit": "--events-limit", "message_bytes_max": MESSAGE_SIZE_FLAG}


def add_reach(parser: argparse.ArgumentParser, *, sized: bool = False) -> None:
    """The options that all these commands have. `sized`: also how large a message may be, for those whose may be large;
    `message_bytes_max` of what is parsed then says it.
    """
    from clickstream.client import DEFAULT_TARGET
    from clickstream.values import MESSAGE_BYTES_MAX

    default = os.environ.get(f"{_PREFIX}TARGET") or DEFAULT_TARGET
    group = parser.add_argument_group("the server")
    group.add_argument("--target", default=default, help=f"its address ({_PREFIX}TARGET; default %(default)s)")
    group.add_argument("--tls", action="store_true", default=None, help=f"use TLS ({_PREFIX}TLS=1)")
    for flag, what in (
        ("--tls-ca", "who vouches for the server, in PEM form (default: the public authorities)"),
        ("--tls-client-cert", "a certificate to show it, in PEM form"),
        ("--tls-client-key", "its key"),
    ):
        group.add_argument(flag, metavar="FILE", help=f"{what}; means --tls ({_PREFIX}{_FLAGS[flag].upper()})")
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"holds the token ({_PREFIX}TOKEN_FILE; or the token itself in {_PREFIX}TOKEN)",
    )
    group.add_argument(
        "--token-in-clear",
        action="store_true",
        default=None,
        help=f"send the token to another machine without TLS, too ({_PREFIX}TOKEN_IN_CLEAR=1)",
    )
    if sized:
        group.add_argument(
            MESSAGE_SIZE_FLAG,
            metavar="N",
            type=_message_bytes,
            default=os.environ.get(f"{_PREFIX}MESSAGE_BYTES_MAX") or str(MESSAGE_BYTES_MAX),
            help=f"bytes that a message may have there ({_PREFIX}MESSAGE_BYTES_MAX; default %(default)s)",
        )


def _message_bytes(text: str) -> int:
    from clickstream.values import MESSAGE_BYTES_LEAST, MESSAGE_BYTES_MOST

    if not text.isdecimal() or not MESSAGE_BYTES_LEAST <= int(text) <= MESSAGE_BYTES_MOST:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {MESSAGE_BYTES_LEAST:,} to {MESSAGE_BYTES_MOST:,}"
        )
    return int(text)


def access_of(given: argparse.Namespace) -> Access:
    """What the command line and the environment say. Raises StartFailure."""
    from clickstream.access import Access

    try:
        return Access(
            given.target,
            token=_token(given),
            tls=_tls(given, os.environ),
            token_in_clear=_is_on(given.token_in_clear, "TOKEN_IN_CLEAR"),
        )
    except OSError as error:
        raise StartFailure(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise StartFailure(str(error)) from error


def options_of(access: Access, default_target: str) -> list[str]:
    """What to give another command that is to reach the same server; a token in the environment stays there."""
    from clickstream.credentials import TokenFile

    said = [] if access.target == default_target else ["--target", access.target]
    if access.tls is not None:
        files = (access.tls.ca, access.tls.client_cert, access.tls.client_key)
        named = [part for flag, file in zip(_FLAGS, files, strict=True) if file for part in (flag, os.fspath(file))]
        said += named or ["--tls"]
    if isinstance(access.token, TokenFile):
        said += ["--token-file", os.fspath(access.token.path)]
    return said + (["--token-in-clear"] if access.token_in_clear else [])


def program() -> str:
    """How this program was called, so that a line to try works as printed."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"python -m {called.parent.name}"
    return called.name if shutil.which(called.name) == str(called) else shlex.quote(os.path.relpath(called))


def advice(error: ClickstreamError) -> str:
    """What somebody at the command line should do about being kept out, to be put behind what is said of it; or ""."""
    from clickstream.access import hint
    from clickstream.errors import MissingCredentials, Unavailable

    if isinstance(error, MissingCredentials):
        return f": give --token-file FILE, or set {_PREFIX}TOKEN_FILE or {_PREFIX}TOKEN"
    words = hint(error.message) if isinstance(error, Unavailable) else ""
    return words and f": {words}"


def message_of(error: ClickstreamError) -> str:
    """What the error says, to somebody at the command line: of a large message it names fields, who gives options."""
    from clickstream.errors import MessageTooLarge

    message = error.message
    if isinstance(error, MessageTooLarge):
        for field, flag in _FLAGS_OF_FIELDS.items():
            message = message.replace(field, flag)
    return message


def _token(given: argparse.Namespace) -> Token | None:
    from clickstream.credentials import TokenFile

    path = given.token_file or os.environ.get(f"{_PREFIX}TOKEN_FILE")
    token = os.environ.get(f"{_PREFIX}TOKEN")
    if not path:
        return token.strip() if token else None
    if token and not given.token_file:
        raise StartFailure(f"{_PREFIX}TOKEN and {_PREFIX}TOKEN_FILE are both set: which one is it to be?")
    return TokenFile(path)


def _tls(given: argparse.Namespace, environment: Mapping[str, str]) -> Tls | None:
    from clickstream.credentials import Tls

    files = [
        getattr(given, name) or environment.get(_PREFIX + name.upper()) or None
        for name in ("tls_ca", "tls_client_cert", "tls_client_key")
    ]
    asked = _is_on(given.tls, "TLS")
    return Tls(*files) if any(files) or asked else None


def _is_on(flag: bool | None, name: str) -> bool:  # noqa: FBT001  # as argparse gives it
    value = os.environ.get(_PREFIX + name, "").lower()
    if value not in {"", "0", "false", "no", "off", "1", "true", "yes", "on"}:
        raise StartFailure(f"{_PREFIX}{name} must be 1 or 0")
    return flag or value in {"1", "true", "yes", "on"}
