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


def the_line(file: str, pattern: str) -> list[str]:
    """A line that a document has once, to be run in the project's folder."""
    [line] = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
    return re.sub(r"^(\$\(BIN\)|\.venv/bin)/", f"{BIN}/", line).split()


CHECK = the_line("Makefile", r"^\t(\$\(BIN\)/buf breaking .*)$")
RELEASE = the_line("CONTRIBUTING.md", r"^[0-9]+[.] `([^`]*protos/released[.]binpb)`")


@pytest.fixture(params=["as committed", "just released"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the protos, beside those of the last release, or of a release that is made now."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    if request.param == "just released":
        assert 0 == run(tmp_path, RELEASE).returncode
    return tmp_path


def run(root: Path, line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False, timeout=120)


def checked(root: Path, file: str, before: str, after: str) -> subprocess.CompletedProcess[str]:
    """What `make check` says after this change."""
    proto = root / "protos" / "clickstream" / "v1" / f"{file}.proto"
    text = proto.read_text()
    assert before in text
    proto.write_text(text.replace(before, after))
    return run(root, CHECK)


@pytest.mark.parametrize(("what", "file", "before", "after"), BREAKING, ids=[change[0] for change in BREAKING])
def test_what_breaks_clients_is_refused(what: str, file: str, before: str, after: str, project: Path) -> None:
    """A change that old clients do not survive fails the check, which names the file."""
    said = checked(project, file, before, after)

    assert 0 != said.returncode
    assert f"protos/clickstream/v1/{file}.proto:" in said.stdout


def test_a_file_that_is_gone_is_refused(project: Path) -> None:
    """A service that is taken away with its file fails the check."""
    (project / "protos" / "clickstream" / "v1" / "transfer_service.proto").unlink()
    said = run(project, CHECK)

    assert 0 != said.returncode
    assert "clickstream/v1/transfer_service.proto" in said.stdout


def test_what_is_added_is_not_refused(project: Path) -> None:
    """A new field passes, so that the check is not in the way of what is allowed."""
    assert (0, "") == ((said := checked(project, *ADDED)).returncode, said.stdout)
