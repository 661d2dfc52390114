"""`clickstream demo` as a process: the whole way on one screen, and nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clickstream import (
    OutcomeCounts,
    RegisteredSession,
    Session,
    SessionBatch,
    SessionBatchStatus,
    SessionEvent,
    SessionWithEvents,
)
from clickstream_server.bulk.account import FileAccount, LogAccount
from clickstream_server.bulk.ubi.lines import LineCounts
from clickstream_server.demo import ReadBack
from clickstream_server.sample import sample_log
from harness import PATIENCE_S, run_program, start_program

STEPS = ["1 read", "2 start", "3 replay", "4 release", "5 read back", "6 check"]
MOMENT = datetime(2024, 12, 10, tzinfo=UTC)


def steps(out: str) -> list[str]:
    """The headed lines, without what they say."""
    return [step for line in out.splitlines() for step in STEPS if line.startswith(step)]


def files_of_demo(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_the_demo_shows_the_whole_way(tmp_path: Path) -> None:
    """The demo takes every step with the generated log, agrees with itself, and leaves no file behind."""
    code, out, errors = await run_program("demo", TMPDIR=str(tmp_path), COLUMNS="120")

    assert (0, "") == (code, errors)
    assert STEPS == steps(out)
    assert "sealed with 200 sessions" in out
    assert "← clicked" in out
    assert "6 check     all agrees" in out
    assert [] == files_of_demo(tmp_path)


async def test_the_demo_of_the_real_log_agrees_with_the_file(shared_log: Path, tmp_path: Path) -> None:
    """With the real log the demo ends with the numbers of that file."""
    code, out, errors = await run_program("demo", str(shared_log), TMPDIR=str(tmp_path), COLUMNS="120")

    assert (0, "") == (code, errors)
    assert STEPS == steps(out)
    words = [" ".join(line.split()) for line in out.splitlines()]
    assert "473 rows of queries = 284 queries + 189 more of the same queries" in words
    assert "queries, as sessions 284 284 0 0 0" in words
    assert "events of these queries 2,502 2,502 0 0 0" in words
    assert "events of unknown queries* 942 941 1 0 0" in words
    assert any(line.startswith("5 read back 284 sessions with 2,502 events") for line in words)


async def test_a_missing_log_starts_nothing(tmp_path: Path) -> None:
    """A log that is not there ends the demo with one line and code 1 before anything is started."""
    path = str(tmp_path / "missing.ndjson")

    code, out, errors = await run_program("demo", path, TMPDIR=str(tmp_path))

    assert (1, "") == (code, out)
    assert f"clickstream: cannot read {path}: No such file or directory\n" == errors


async def test_a_log_without_queries_starts_nothing(tmp_path: Path) -> None:
    """A log in which no query can be used ends the demo with its account and one clear line."""
    log = tmp_path / "empty.ndjson"
    log.write_text('{"hello": 1}\n')

    code, out, errors = await run_program("demo", str(log))

    assert 1 == code
    assert ["1 read"] == steps(out)
    assert "neither a query" in out
    assert f"clickstream: {log} holds no query that can be used, so there is nothing to show\n" == errors


async def test_a_log_of_refused_queries_ends_clearly(tmp_path: Path) -> None:
    """A log whose every session the server refuses ends the demo with one clear line and code 1."""
    log = tmp_path / "refused.ndjson"
    log.write_text(json.dumps({"query_id": "q" * 300, "user_query": "x", "timestamp": "2024-12-10T00:00:00Z"}))

    code, _, errors = await run_program("demo", str(log))

    assert (1, "clickstream: the server refused every session, so there is no batch to release\n") == (code, errors)


async def test_a_log_that_is_cut_off_does_not_agree(tmp_path: Path) -> None:
    """Of a log that is not all there the demo shows what is, says so, and ends with code 1."""
    log = tmp_path / "cut.ndjson.gz"
    packed = gzip.compress(sample_log(50))
    log.write_bytes(packed[: len(packed) // 2])

    code, out, _ = await run_program("demo", str(log), COLUMNS="120")

    assert 1 == code
    assert STEPS[:-1] == steps(out)
    assert "does not agree: what was read and the whole log: the compressed data ends too early: the file is cut" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_stopped_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM stop the demo's server and database and remove its folder."""
    process = await start_program("demo", TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while not (await process.stdout.readline()).startswith(b"2 start"):
            pass
        process.send_signal(number)
        _, errors = await process.communicate()

    assert code == process.returncode
    assert (b"clickstream: interrupted\n" if number == signal.SIGINT else b"") == errors
    assert [] == files_of_demo(tmp_path)


def read_back(*numbers: int, sealed: bool = True) -> ReadBack:
    """What came back: sessions with these numbers, with one event each."""
    read = ReadBack(sealed=sealed)
    for number in numbers:
        event = SessionEvent(event_id="e", session_id="s", event_type="hover", created_at=MOMENT)
        registered = RegisteredSession(
            session=Session(session_id="s"), batch_id="b", session_number=number, registered_at=MOMENT
        )
        read.take(SessionWithEvents(**dict(registered), events=(event,), event_count=1))
    return read


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (read_back(1, 2), None),
        (read_back(1), "sessions read back and sessions registered: 1 and 2"),
        (read_back(1, 2, 3), "events read back and events stored of these queries: 3 and 2"),
        (read_back(1, 3), "the numbers are not 1, 2, 3 and so on without a gap"),
        (read_back(2, 1), "the numbers are not 1, 2, 3 and so on without a gap"),
        (read_back(1, 2, sealed=False), "the stream did not end with the batch sealed"),
    ],
)
def test_the_demo_notices_what_does_not_agree(read: ReadBack, fault: str | None) -> None:
    """A session, an event or a number that is missing or too many is named."""
    log = LogAccount(LineCounts(lines=4), query_rows=2, event_rows=2, queries=2)
    log.events_of_queries = OutcomeCounts(inserted=2)
    account = FileAccount("log", sessions=OutcomeCounts(inserted=2), events=OutcomeCounts(inserted=2), log=log)
    batch = SessionBatch(
        batch_id="b",
        status=SessionBatchStatus.RELEASED,
        session_counter=2,
        created_at=MOMENT,
        updated_at=MOMENT,
    )

    found = read.disagreements(account, log, batch)

    assert found == [] if fault is None else fault in found
