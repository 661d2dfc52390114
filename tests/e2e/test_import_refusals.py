"""Where refused rows go: `--errors` with a file, with standard output, with a descriptor that is open already."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from clickstream import ClickstreamClient
from harness import PATIENCE_S, run_program

ROWS = b'{"session":{"session_id":"s"}}\nbroken\n{"session":{"session_id":"t"}}\n'


async def through_shell(folder: Path, line: str, *arguments: str) -> tuple[int | None, str, str]:
    """Run `clickstream import` with these arguments as `"$@"` of a shell's line, in this folder."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"set -o pipefail; {line}", "bash", sys.executable, "-m", "clickstream_server", "import"),
        *arguments,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


@pytest.mark.parametrize("errors", ["-", "/dev/stdout", "/dev/fd/1"])
async def test_refused_rows_can_go_to_standard_output(client: ClickstreamClient, tmp_path: Path, errors: str) -> None:
    """On standard output the refused rows stand alone, for a pipe, and the account goes to standard error."""
    (tmp_path / "a").write_bytes(ROWS)

    code, out, complaints = await through_shell(tmp_path, '"$@"', "--errors", errors, "a", "--target", client.target)

    assert 2 == code
    (row,) = map(json.loads, out.splitlines())
    assert ("a", 2, "broken") == (row["file"], row["line"], row["row"])
    assert "Import of a" in complaints
    assert "1 row was refused, in whole or in part: see standard output" in complaints
    assert ["a"] == [path.name for path in tmp_path.iterdir()]  # noqa: ASYNC240  # a moment


@pytest.mark.parametrize(
    ("errors", "line"), [("/dev/stdout", '"$@" >>kept'), ("/dev/stderr", '"$@" 2>>kept'), ("/dev/fd/5", '"$@" 5>>kept')]
)
async def test_refused_rows_go_behind_what_an_open_file_has(
    client: ClickstreamClient, tmp_path: Path, errors: str, line: str
) -> None:
    """Refused rows into a file that the shell has opened cut off nothing of it, and nothing is written over them."""
    (tmp_path / "a").write_bytes(ROWS)
    (tmp_path / "kept").write_text("before\n")

    code, out, complaints = await through_shell(tmp_path, line, "--errors", errors, "a", "--target", client.target)

    kept = (tmp_path / "kept").read_text()
    assert 2 == code
    assert kept.startswith("before\n")
    assert ["broken"] == [json.loads(each)["row"] for each in kept.splitlines() if each.startswith("{")]
    assert 1 == (out + complaints + kept).count("Import of a")


async def test_what_went_wrong_is_told_behind_refused_rows(client: ClickstreamClient, tmp_path: Path) -> None:
    """Refused rows on standard error leave it open: what is wrong with the file as a whole is told behind them."""
    (tmp_path / "a").write_bytes(b'{"session":{"session_id":"s"},"event_count":0}\nbroken\n')

    code, _, complaints = await through_shell(
        tmp_path, '"$@"', "--errors", "/dev/stderr", "a", "--target", client.target
    )

    assert 1 == code
    row, told = complaints.splitlines()
    assert "broken" == json.loads(row)["row"]
    assert told.startswith("clickstream: a: its trailer is missing")


async def test_what_cannot_be_printed_is_no_refusal_lost(client: ClickstreamClient, tmp_path: Path) -> None:
    """Where standard output takes no refused rows the import fails and says so; what was stored stays."""
    (tmp_path / "a").write_bytes(ROWS)

    code, _, complaints = await through_shell(
        tmp_path, '"$@" >/dev/full', "--errors", "-", "a", "--target", client.target
    )

    assert 1 == code
    assert "cannot write standard output: No space left on device. So far 2 sessions" in complaints.splitlines()[-1]


async def test_a_row_of_very_many_values_is_refused_unread(client: ClickstreamClient, tmp_path: Path) -> None:
    """A line of a few MiB with millions of values, which took gigabytes to parse, is one refused row."""
    (tmp_path / "a").write_bytes(b'{"session":{"session_id":"h"},"events":[' + b"1," * 3_000_000 + b"1]}\n" + ROWS)

    code, out, complaints = await through_shell(
        tmp_path, 'ulimit -v 2500000; MALLOC_ARENA_MAX=1 "$@"', "a", "--target", client.target
    )

    assert (2, "") == (code, complaints)
    assert "the line has more than 2000000 values" in out
    assert "sessions 2 2 0 0 0" in [" ".join(line.split()) for line in out.splitlines()]


async def test_commas_in_text_are_no_values(client: ClickstreamClient, tmp_path: Path) -> None:
    """A row is not taken for one of very many values for what its text has: an export may hold such."""
    events = [
        {"event_id": f"e-{number}", "object_id": "o", "meta": {"csv": '"' + "1," * 30_000 + '"'}}
        for number in range(70)
    ]
    (tmp_path / "a").write_text(json.dumps({"session": {"session_id": "s"}, "events": events}))

    code, out, complaints = await through_shell(tmp_path, '"$@"', "a", "--target", client.target)

    assert (0, "") == (code, complaints), out
    found = await client.get_session("s")
    assert found is not None
    assert 70 == found.event_count


async def test_a_number_that_nothing_is_open_under_is_told(client: ClickstreamClient, tmp_path: Path) -> None:
    """A descriptor that is not open is told in one line, and nothing is imported."""
    (tmp_path / "a").write_bytes(ROWS)

    told = await run_program("import", "--errors", "/dev/fd/77", str(tmp_path / "a"), "--target", client.target)

    assert (1, "", "clickstream: cannot write /dev/fd/77: Bad file descriptor\n") == told
    assert () == (await client.list_batches()).batches
