"""The file that keeps every refused row, ready to be mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clickstream_server.bulk.account import FileAccount
from clickstream_server.bulk.outputs import descriptor_of
from clickstream_server.bulk.rows import Refusal
from clickstream_server.failures import StartFailure


@contextmanager
def refusals_file(path: str | None) -> Iterator[Callable[[FileAccount, Refusal], None]]:
    """A function that writes refused rows into the file, if there is to be one. Raises StartFailure, as it does.

    What is open already, such as standard output, goes on where it stands, and is left open.
    """
    if path is None:
        yield lambda _account, _refusal: None
        return
    try:
        number = descriptor_of(path)
        file = open(  # noqa: SIM115  # closed below
            path if number is None else number,
            "w",
            encoding="utf-8",
            errors="backslashreplace",  # a name of a file that is not UTF-8 becomes a JSON escape
            closefd=number is None,
        )
    except OSError as error:
        raise _failed(path, error) from error

    def write(account: FileAccount, refusal: Refusal) -> None:
        for row in refusal.rows:
            found = {"file": account.name, "line": row.line, "reason": refusal.reason, "message": refusal.message}
            try:
                file.write(f"{json.dumps(found | {'row': row.text}, ensure_ascii=False)}\n")
            except OSError as error:
                raise _failed(path, error) from error

    try:
        yield write
    finally:
        try:
            file.close()
        except OSError as error:
            raise _failed(path, error) from error


def _failed(path: str, error: OSError) -> StartFailure:
    return StartFailure(f"cannot write {name_of(path)}: {error.strerror or error}")


def name_of(path: str) -> str:
    """For people."""
    return "standard output" if on_standard_output(path) else path


def on_standard_output(path: str | None) -> bool:
    """Whether the refused rows go there, where nothing else may stand then."""
    return path is not None and descriptor_of(path) == 1
