"""`clickstream export --resume`: what it goes on with, and what it refuses because it would join what differs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clickstream import ClickstreamClient, Session
from clickstream.transfer import ImportChunk, ImportConfig, ImportItem
from harness import PATIENCE_S, run_program, served

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def client(mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamClient]:
    """A server with more sessions than `broken_off` has room for."""
    async with served(mongodb_uri, database) as found:
        async for _ in found.import_sessions(ImportConfig(import_id="fill"), chunks()):
            pass
        yield found


async def chunks() -> AsyncIterator[ImportChunk]:
    for sequence in range(1, 16):
        numbers = range(sequence * 100, sequence * 100 + 100)
        yield ImportChunk(sequence, [ImportItem(session(number), []) for number in numbers])


def session(number: int) -> Session:
    return Session(session_id=f"s{number}", search_query=os.urandom(400).hex(), created_at=START)


async def exported(client: ClickstreamClient, *arguments: str | Path) -> tuple[int, str]:
    code, _, complaints = await run_program("export", *map(str, arguments), "--target", client.target)
    return code, complaints


@pytest.fixture
async def broken_off(client: ClickstreamClient, tmp_path: Path) -> Path:
    """A file whose export found no room for all of it: its part is there, and how far it is."""
    file = tmp_path / "a.jsonl"
    limited = 'ulimit -f 1000; exec "$0" -m clickstream_server "$@"'  # of 512 or 1024 bytes
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", limited, sys.executable, "export", "--target", client.target, "--output", str(file)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        _, complaints = await process.communicate()
    assert 1 == process.returncode
    assert "--resume" in complaints.decode().splitlines()[-1]
    return file


def part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def state_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part.resume")


async def test_the_part_of_one_server_is_not_gone_on_with_at_another(
    client: ClickstreamClient, other: ClickstreamClient, broken_off: Path
) -> None:
    """--resume at another address is refused with the address that it came from, and spoils nothing."""
    before = part_of(broken_off).read_bytes()

    code, complaints = await exported(other, "--output", broken_off, "--resume")

    assert 1 == code
    assert f"came from {client.target}, not from {other.target}" in complaints
    assert f"--target {client.target}" in complaints
    assert before == part_of(broken_off).read_bytes()
    assert 0 == (await exported(client, "--output", broken_off, "--resume"))[0]


async def test_a_part_with_other_bytes_is_not_gone_on_with(client: ClickstreamClient, broken_off: Path) -> None:
    """Where the part is not what the export wrote, --resume says so; without it the export is made anew."""
    with part_of(broken_off).open("r+b") as part:
        part.write(b"PAR1")

    code, complaints = await exported(client, "--output", broken_off, "--resume")

    assert 1 == code
    assert "not as it was left: export again without --resume" in complaints
    assert 0 == (await exported(client, "--output", broken_off))[0]


@pytest.mark.parametrize("complete", [False, True])
async def test_without_a_part_the_export_begins_anew(
    client: ClickstreamClient, broken_off: Path, *, complete: bool
) -> None:
    """Where a state has no part, of a file that is complete or not, --resume makes all of it."""
    state = state_of(broken_off).read_bytes()
    if complete:
        assert 0 == (await exported(client, "--output", broken_off, "--resume"))[0]
        state_of(broken_off).write_bytes(state)
    else:
        part_of(broken_off).unlink()

    assert 0 == (await exported(client, "--output", broken_off, "--resume"))[0]

    content = broken_off.read_bytes()  # noqa: ASYNC240  # a moment
    assert 1501 == content.count(b"\n")  # the trailer is a line, too
    assert [broken_off] == list(broken_off.parent.iterdir())
