"""`clickstream import` and `export` when something breaks on the way: what is there afterwards, and what is said."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient, Session, SessionEvent, SessionWithEvents
from clickstream.export import ExportAccount, ExportedSession
from clickstream_server.bulk import jsonl
from harness import PATIENCE_S, ServerProcess, eventually, run_program, start_program

START = datetime(2026, 1, 1, tzinfo=UTC)
SESSIONS = 3000


def an_export(count: int, filler: str = "lamp") -> bytes:
    """What an export of so many sessions with two events each is, byte for byte."""
    account = ExportAccount()
    lines = []
    for number in range(count):
        moment = START + timedelta(seconds=number)
        session = Session(session_id=f"s{number:05}", search_query=filler, created_at=moment)
        events = tuple(
            SessionEvent(event_id=f"e{place}", session_id=session.session_id, object_id="o", created_at=moment)
            for place in range(2)
        )
        found = SessionWithEvents(
            session=session, batch_id="b", session_number=1, registered_at=moment, events=events, event_count=2
        )
        exported = ExportedSession(found)
        account = account.after([exported])
        lines.append(jsonl.line_from_session(exported))
    content = b"".join(lines)
    return content + jsonl.line_from_trailer(account, sha256(content).hexdigest())


def a_query(query_id: str, moment: datetime = START, **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "user_query": "lamp", "timestamp": moment.isoformat()} | fields


def an_event(query_id: str, action: str = "hover", **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "action_name": action, "timestamp": START.isoformat()} | fields


def as_lines(*rows: Any) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def a_log(count: int) -> bytes:
    """A log whose events stand all before their queries."""
    events = [an_event(f"s{number:05}", number=place) for place in range(2) for number in range(count)]
    queries = [a_query(f"s{number:05}", START + timedelta(seconds=number)) for number in range(count)]
    return as_lines(*events, *queries)


async def exported(target: str, file: Path) -> bytes:
    code, _, complaints = await run_program("export", "--output", str(file), "--target", target)
    assert 0 == code, complaints
    return file.read_bytes()  # noqa: ASYNC240  # a moment


# --- a server that is killed ------------------------------------------------------------------------------------------


async def killed_in_the_middle(
    server: ServerProcess, file: Path, mongodb_uri: str, database: str
) -> asyncio.subprocess.Process:
    """The import of a file whose server was killed when some of the sessions were stored, and not all."""
    process = await start_program("import", str(file), "--target", server.address)
    async with AsyncMongoClient(mongodb_uri) as mongo:
        sessions = mongo[database]["sessions"]

        async def some_are_stored() -> bool:
            return await sessions.estimated_document_count() > 0

        await eventually(some_are_stored, "sessions are stored")
        await server.kill()
        assert await sessions.count_documents({}) < SESSIONS
    assert process.returncode is None
    return process


async def all_is_there_once(target: str, file: Path, expected: bytes) -> None:
    """Fail unless an export is what was expected, and the numbers are 1, 2, 3 and so on."""
    assert expected == await exported(target, file)
    async with ClickstreamClient(target) as client:
        (batch,) = (await client.list_batches()).batches
        numbers = [found.session_number async for found in client.get_batch_sessions(batch.batch_id)]
    assert list(range(1, SESSIONS + 1)) == numbers


@pytest.fixture(params=["jsonl", "ubi"])
async def content(request: pytest.FixtureRequest, other: ClickstreamClient, tmp_path: Path) -> tuple[Path, bytes]:
    """A file to be imported, and what an export gives after it was imported without a fault."""
    file = tmp_path / "in"
    if request.param == "jsonl":
        file.write_bytes(an_export(SESSIONS))
        return file, file.read_bytes()
    file.write_bytes(a_log(SESSIONS))
    code, _, complaints = await run_program("import", str(file), "--target", other.target)
    assert 0 == code, complaints
    return file, await exported(other.target, tmp_path / "expected")


async def test_an_import_goes_on_at_a_server_that_was_killed_and_started_again(
    content: tuple[Path, bytes], mongodb_uri: str, database: str, tmp_path: Path
) -> None:
    """After kill -9 and a new server at the same address an import ends by itself, with every row stored once."""
    file, expected = content
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    process = await killed_in_the_middle(server, file, mongodb_uri, database)

    again = await ServerProcess.start(listen=server.address, **settings)
    async with asyncio.timeout(2 * PATIENCE_S):
        _, complaints = await process.communicate()

    assert (0, b"") == (process.returncode, complaints)
    await all_is_there_once(again.address, tmp_path / "out", expected)


async def test_an_import_whose_server_was_killed_can_be_run_again(
    content: tuple[Path, bytes], mongodb_uri: str, database: str, tmp_path: Path
) -> None:
    """After kill -9 of the server and of the import, the same import at another server stores every row once."""
    file, expected = content
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    process = await killed_in_the_middle(server, file, mongodb_uri, database)
    process.kill()
    await process.communicate()

    other = await ServerProcess.start(**settings)
    code, _, complaints = await run_program("import", str(file), "--target", other.address)

    assert (0, "") == (code, complaints)
    await all_is_there_once(other.address, tmp_path / "out", expected)


# --- --atomic with a log ----------------------------------------------------------------------------------------------

ATOMIC: list[Any] = [
    a_query("whole"),  # 1
    an_event("whole", n=1),  # 2
    an_event("whole", n=1),  # 3: a duplicate
    a_query("refused-event"),  # 4
    an_event("refused-event"),  # 5
    an_event("refused-event", "click"),  # 6: the server refuses it
    an_event("unreadable-event"),  # 7
    a_query("unreadable-event"),  # 8
    a_query("unreadable-event", page=2),  # 9
    an_event("unreadable-event", timestamp=None),  # 10
    a_query("q" * 257),  # 11: the server refuses it
    an_event("q" * 257),  # 12
    an_event("stray"),  # 13
    an_event("stray", "click"),  # 14: the server refuses it
    '{"query_id": "whole',  # 15: nobody can say whose it is
]


async def test_all_rows_of_a_query_stand_or_fall(client: ClickstreamClient, tmp_path: Path) -> None:
    """With --atomic nothing of a query with a bad row is stored, and all its rows are listed; others are untouched."""
    log, errors = tmp_path / "log", tmp_path / "errors"
    log.write_bytes(as_lines(*ATOMIC))

    code, out, complaints = await run_program(
        *("import", "--atomic", "--errors", str(errors), str(log), "--target", client.target), COLUMNS="150"
    )
    found = {
        each.session.session_id: each.event_count
        for each in [await client.get_session(name) for name in ("whole", "refused-event", "unreadable-event")]
        if each is not None
    }
    await client.register_session(Session(session_id="stray"))
    stray = await client.get_session("stray")

    assert (2, "") == (code, complaints)
    assert {"whole": 1} == found
    assert stray is not None
    assert 1 == stray.event_count
    assert [4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15] == sorted(
        json.loads(line)["line"] for line in errors.read_text().splitlines()
    )
    assert "Every line is accounted for." in out


async def test_a_mended_log_replaces_what_was_stored_of_it(client: ClickstreamClient, tmp_path: Path) -> None:
    """After a bad row of a log was mended in its place, importing it with --replace stores what a sound one would."""
    log = tmp_path / "log"
    about = {"event_attributes": {"object": {"object_id": "o"}}}
    sound = [an_event("q", "impression", **about), a_query("q"), a_query("q", page=2), a_query("r")]
    log.write_bytes(as_lines(*(row | {"timestamp": None} for row in sound[::2]), *sound[1::2]))
    await run_program("import", str(log), "--target", client.target, "--max-failure-ratio", "1")
    log.write_bytes(as_lines(*sound))

    code, _, complaints = await run_program("import", str(log), "--replace", "--target", client.target)

    assert (0, "") == (code, complaints)
    found = await client.get_session("q")
    assert found is not None
    assert ["o"] == [item.object_id for item in found.session.search_results]
    assert [{"page": 2}] == found.session.search_meta["further_rows"]


# --- files that cannot be read or written -----------------------------------------------------------------------------


async def imported(client: ClickstreamClient, *arguments: str | Path) -> tuple[int, str, str]:
    return await run_program("import", *map(str, arguments), "--target", client.target)


async def test_a_file_that_fails_while_it_is_read_is_told(client: ClickstreamClient) -> None:
    """An I/O error ends the import with one line that names the file, and code 1."""
    code, _, complaints = await imported(client, "/proc/self/mem")

    assert (1, "clickstream: cannot read /proc/self/mem: Input/output error\n") == (code, complaints)


async def test_a_folder_is_told(client: ClickstreamClient, tmp_path: Path) -> None:
    """A folder in the place of a file ends the import with one line that names it, and code 1."""
    code, _, complaints = await imported(client, tmp_path)

    assert (1, f"clickstream: cannot read {tmp_path}: Is a directory\n") == (code, complaints)


async def test_a_pipe_that_ends_too_early_is_noticed(client: ClickstreamClient, tmp_path: Path) -> None:
    """Of an export that comes through a pipe and breaks off in a line, the whole lines go in, and the import fails."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = an_export(5).splitlines(keepends=True)
    process = await start_program("import", str(pipe), "--target", client.target)
    writing = await asyncio.to_thread(pipe.open, "wb", 0)
    with writing:
        await asyncio.to_thread(writing.write, b"".join(lines[:3]) + lines[3][:40])
    async with asyncio.timeout(PATIENCE_S):
        _, complaints = await process.communicate()

    assert 1 == process.returncode
    assert b"its trailer is missing" in complaints.splitlines()[-1]
    (batch,) = (await client.list_batches()).batches
    assert 3 == batch.session_counter


async def test_no_room_for_refused_rows_is_told(client: ClickstreamClient, tmp_path: Path) -> None:
    """Where --errors cannot be written the import fails and says so; what was stored stays."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(an_export(2).splitlines(keepends=True)[0] + b"broken\n")

    code, _, complaints = await imported(client, "--partial", "--errors", "/dev/full", file)

    assert 1 == code
    assert "cannot write /dev/full: No space left on device. So far 1 sessions" in complaints.splitlines()[-1]


async def test_refused_rows_do_not_write_over_their_file(client: ClickstreamClient, tmp_path: Path) -> None:
    """--errors with the file that is to be imported is refused before anything happens to it."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"broken\n")

    code, _, complaints = await imported(client, "--errors", file, file)

    assert 1 == code
    assert "would write over the file" in complaints
    assert b"broken\n" == file.read_bytes()


async def test_a_server_that_is_not_there_leaves_the_refused_rows_alone(tmp_path: Path) -> None:
    """Where nobody answers, the --errors file of the import before stays."""
    file, errors = tmp_path / "a.jsonl", tmp_path / "errors.jsonl"
    file.write_bytes(b"broken\n")
    errors.write_bytes(b"before\n")

    code, _, _ = await run_program("import", str(file), "--errors", str(errors), "--target", "127.0.0.1:1")

    assert (1, b"before\n") == (code, errors.read_bytes())


async def test_no_room_for_the_summary_is_told(client: ClickstreamClient, tmp_path: Path) -> None:
    """Where standard output is full an import fails with one clear line."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(an_export(2))
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230  # a device
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clickstream_server", "import", str(file), "--target", client.target),
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            _, complaints = await process.communicate()

    assert 1 == process.returncode
    (line,) = complaints.decode().splitlines()
    assert line.startswith("clickstream: cannot write standard output: No space left on device. So far 2 sessions")


async def with_files_up_to(blocks: int, *arguments: str) -> tuple[int | None, str]:
    """Run the program where no file can have more blocks of 512 or 1024 bytes: as on a full disk."""
    limited = f'ulimit -f {blocks}; exec "$0" -m clickstream_server "$@"'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", limited, sys.executable, *arguments), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        _, complaints = await process.communicate()
    return process.returncode, complaints.decode()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "jsonl.gz", "jsonl.zst", "parquet"])
async def test_a_disk_that_fills_up_leaves_no_file(client: ClickstreamClient, tmp_path: Path, suffix: str) -> None:
    """An export that finds no more room fails without a file; a part that is left is gone on with by --resume."""
    source, out, whole = tmp_path / "in", tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    source.write_bytes(an_export(1500, filler=os.urandom(400).hex()))
    assert 0 == (await imported(client, source))[0]
    source.unlink()
    kind = suffix if suffix in {"csv", "parquet"} else "jsonl"
    command = ["export", "--format", kind, "--target", client.target, "--output"]
    resumable = suffix in {"csv", "jsonl"}

    code, complaints = await with_files_up_to(1000 if resumable else 8, *command, str(out))
    left = {path.name for path in tmp_path.iterdir()}  # noqa: ASYNC240  # a moment

    assert 1 == code
    assert "File too large; the export is not complete" in complaints.splitlines()[-1]
    assert ({f"{out.name}.part", f"{out.name}.part.resume"} if resumable else set()) == left
    if resumable:
        assert 0 == (await run_program(*command, str(out), "--resume"))[0]
        assert 0 == (await run_program(*command, str(whole)))[0]
        assert whole.read_bytes() == out.read_bytes()


async def test_two_exports_do_not_mix_in_one_file(client: ClickstreamClient, tmp_path: Path) -> None:
    """While an export writes a file, another one into the same file is refused, and harms nothing."""
    source, out = tmp_path / "in", tmp_path / "out.jsonl"
    source.write_bytes(an_export(3000, filler="x" * 300))
    assert 0 == (await imported(client, source))[0]
    os.mkfifo(f"{out}.part")  # it fills, so that the export waits
    first = await start_program("export", "--output", str(out), "--target", client.target)
    reading = await asyncio.to_thread(Path(f"{out}.part").open, "rb", 0)
    await asyncio.to_thread(reading.read, 10)

    code, _, complaints = await run_program("export", "--output", str(out), "--target", client.target)
    first.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE_S):
        await first.communicate()
    reading.close()

    assert (1, 130) == (code, first.returncode)
    assert f"another export is writing {out}.part" in complaints
    assert not out.exists()


# --- the progress bar -------------------------------------------------------------------------------------------------


async def on_a_terminal(*arguments: str) -> str:
    """What the program writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clickstream_server", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "80", "TERM": "xterm"},
    )
    os.close(theirs)
    written = asyncio.create_task(asyncio.to_thread(read_all, ours))
    async with asyncio.timeout(PATIENCE_S):
        await process.wait()
        return (await written).decode()


def read_all(terminal: int) -> bytes:
    found = b""
    try:
        while piece := os.read(terminal, 65536):
            found += piece
    except OSError:  # Linux says EIO when the other side is closed
        pass
    os.close(terminal)
    return found


async def test_a_terminal_shows_share_and_rate(client: ClickstreamClient, tmp_path: Path) -> None:
    """Imports, and exports whose size is known, show their share to the end; other exports show none."""
    source, out = tmp_path / "in", str(tmp_path / "out")
    source.write_bytes(an_export(600))
    target = ("--target", client.target)

    of_import = await on_a_terminal("import", str(source), *target)
    (batch,) = (await client.list_batches()).batches
    of_batch = await on_a_terminal("export", "--batch", batch.batch_id, "--output", out, *target)
    of_ids = await on_a_terminal("export", "--session", "s00003", "s00001", "--output", out, *target)
    of_all = await on_a_terminal("export", "--output", out, *target)

    assert ["100%", "100%", "100%"] == [text[text.rindex("%") - 3 :][:4] for text in (of_import, of_batch, of_ids)]
    assert "%" not in of_all
    assert all("600 sessions, " in text for text in (of_import, of_batch, of_all))


async def test_ctrl_c_while_rows_are_read_is_no_crash(client: ClickstreamClient, tmp_path: Path) -> None:
    """Ctrl-C ends an import in order also where one of its threads is busy with rows."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"".join(an_export(20_000, filler="x" * 300).splitlines(keepends=True)[:-1]))
    process = await start_program("import", "--partial", str(file), "--target", client.target)

    async def some_are_stored() -> bool:
        return bool((await client.list_batches()).batches)

    await eventually(some_are_stored, "rows are stored")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE_S):
        _, complaints = await process.communicate()

    assert (130, 1) == (process.returncode, len(complaints.splitlines()))
