"""`make check` refuses protos that would break the clients of the last release, and no others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BREAKING = [
    ("field renumbered", "session", "string session_id = 1;", "string session_id = 21;"),
    ("field renamed", "session", "string session_id = 1;", "string id = 1;"),
    ("type changed", "session", "string session_id = 1;", "bytes session_id = 1;"),
    ("value renumbered", "session", "ORDER_DESC = 2;", "ORDER_DESC = 3;"),
    ("method gone", "clickstream_service", "rpc GetBatch(GetBatchRequest) returns (GetBatchResponse);", ""),
]
ADDED = ("session", "string session_id = 1;", "string session_id = 1;\n  // New.\n  string added = 99;")


def the_line() -> list[str]:
    """The line of `make check`."""
    [line] = re.findall(r"^\t(\$\(BIN\)/buf breaking .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(line).replace("$(BIN)", str(BIN)).split()


def checked(root: Path, file: str, before: str, after: str) -> subprocess.CompletedProcess[str]:
    """What `make check` says after this change in a copy of the protos."""
    shutil.copytree(ROOT / "protos", root / "protos")
    shutil.copy(ROOT / "buf.yaml", root)
    proto = root / "protos" / "clickstream" / "v1" / f"{file}.proto"
    text = proto.read_text()
    assert before in text
    proto.write_text(text.replace(before, after))
    return subprocess.run(the_line(), cwd=root, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(("what", "file", "before", "after"), BREAKING, ids=[change[0] for change in BREAKING])
def test_what_breaks_clients_is_refused(what: str, file: str, before: str, after: str, tmp_path: Path) -> None:
    """A change that old clients do not survive fails the check, which names the file."""
    said = checked(tmp_path, file, before, after)

    assert 0 != said.returncode
    assert f"protos/clickstream/v1/{file}.proto:" in said.stdout


def test_what_is_added_is_not_refused(tmp_path: Path) -> None:
    """A new field passes, so that the check is not in the way of what is allowed."""
    assert (0, "") == ((said := checked(tmp_path, *ADDED)).returncode, said.stdout)
