"""The command `clickstream replay`: what it reads, what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from search_log import TROUBLE, as_lines, event

from clickstream_server.sample import sample_log
from harness import PATIENCE_S, ServerProcess, run_program


@asynccontextmanager
async def replaying_stdin(target: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`clickstream replay -`, with its standard input to write to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clickstream_server", "replay", "-", "--target", target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def begin_to_read(process: asyncio.subprocess.Process) -> None:
    """Write far more than a pipe holds and wait until it is taken: by then the process is in the middle of reading."""
    assert process.stdin is not None
    process.stdin.write(as_lines([event("q", n=number, blob="x" * 1000) for number in range(2000)]))
    async with asyncio.timeout(PATIENCE_S):
        await process.stdin.drain()


async def ended(process: asyncio.subprocess.Process, rest: bytes = b"") -> tuple[int | None, str, str]:
    async with asyncio.timeout(2 * PATIENCE_S):
        out, errors = await process.communicate(rest)
    return process.returncode, out.decode(), errors.decode()


@pytest.mark.parametrize("columns", ["120", "40"])
async def test_the_command_prints_the_account_of_a_file(server: ServerProcess, tmp_path: Path, columns: str) -> None:
    """A replay ends with the sums, the refusals with their lines and the batch, on stdout alone, and code 0.

    However wide the terminal is: no number is cut, and no line is broken.
    """
    log = tmp_path / "handmade.ndjson"
    log.write_bytes(as_lines(TROUBLE))

    code, out, errors = await run_program("replay", str(log), "--target", server.address, COLUMNS=columns)

    assert (0, "") == (code, errors)
    assert "22 lines = 6 rows of queries + 12 rows of events + 0 action lines + 0 blank + 4 refused" in out
    words = [" ".join(line.split()) for line in out.splitlines()]
    assert "queries, as sessions 5 3 0 0 2" in words
    assert "events of these queries 11 6 1 0 4" in words
    assert "events of unknown queries* 1 1 0 0 0" in words
    assert "event object_id: must be set for a click 1 line 5" in words
    assert "Every line is accounted for." in words
    assert "10 rows were refused, in whole or in part; import --errors FILE keeps them, ready to be mended." in words
    assert "collects now; its numbers so far: 1 to 3." in out


async def test_the_command_reads_standard_input(server: ServerProcess) -> None:
    """`replay -` takes the log from a pipe."""
    async with replaying_stdin(server.address) as process:
        code, out, errors = await ended(process, sample_log(20))

    assert (0, "") == (code, errors)
    assert "Import of standard input" in out
    assert "its numbers so far: 1 to 20." in out


async def test_the_sample_can_be_replayed_again(server: ServerProcess) -> None:
    """`replay --sample` feeds 200 queries, and a second time finds them all."""
    _, first, _ = await run_program("replay", "--sample", "--target", server.address)
    code, second, _ = await run_program("replay", "--sample", "--target", server.address)

    assert "its numbers so far: 1 to 200." in first
    assert ["queries,", "as", "sessions", "200", "0", "200", "0", "0"] in [line.split() for line in second.splitlines()]
    assert 0 == code
    assert "its numbers so far: 1 to 200." in second


@pytest.mark.parametrize("name", ["missing.ndjson", "."])
async def test_a_file_that_cannot_be_read_is_one_clear_line(server: ServerProcess, tmp_path: Path, name: str) -> None:
    """A log that is not there, or is a folder, ends the command with one line that names it, and code 1."""
    path = str(tmp_path / name)

    code, out, errors = await run_program("replay", path, "--target", server.address)

    assert (1, "") == (code, out)
    assert [f"clickstream: cannot read {path}: "] == [line[: line.rindex(": ") + 2] for line in errors.splitlines()]


async def test_no_server_is_one_clear_line() -> None:
    """Where nobody serves, the command says so in one line before it reads anything, and ends with code 1."""
    code, out, errors = await run_program("replay", "--sample", "--target", "127.0.0.1:1")

    assert (1, "") == (code, out)
    assert 1 == len(errors.splitlines())
    assert errors.startswith("clickstream: the server at 127.0.0.1:1 does not answer (UNAVAILABLE)")


async def test_ctrl_c_while_reading_is_one_clear_line(server: ServerProcess) -> None:
    """Ctrl-C in the middle of a log ends the command at once with code 130, and nothing was sent."""
    async with replaying_stdin(server.address) as process:
        await begin_to_read(process)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()  # its input is still open
        code, out, errors = await ended(process)

    assert (130, "") == (code, out)
    assert 1 == len(errors.splitlines())
    assert "clickstream: interrupted. Nothing was acknowledged yet." in errors


async def test_what_is_no_log_is_one_clear_line(server: ServerProcess, tmp_path: Path) -> None:
    """A file without any row of a log ends the command with a line that says so, and code 1."""
    file = tmp_path / "other.jsonl"
    file.write_text('{"session": {"session_id": "s"}}\n')

    code, _, errors = await run_program("replay", str(file), "--target", server.address)

    assert (1, 1) == (code, len(errors.splitlines()))
    assert "nothing in it is a row of a search log in the UBI format" in errors
