"""The file that keeps every refused row, ready to be mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clickstream_server.bulk.account import FileAccount
from clickstream_server.bulk.rows import Refusal
from clickstream_server.failures import StartFailure


@contextmanager
def refusals_file(path: str | None) -> Iterator[Callable[[FileAccount, Refusal], None]]:
    """A function that writes refused rows into the file, if there is to be one. Raises StartFailure, as it does."""
    if path is None:
        yield lambda _account, _refusal: None
        return
    try:
        # A name of a file that is not UTF-8 becomes a JSON escape.
        file = Path(path).open("w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # closed below
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
    return StartFailure(f"cannot write {path}: {error.strerror or error}")
