"""`clickstream export` against real servers: complete or nothing, and the same bytes after the way in and out again."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from clickstream import ClickstreamClient, Money, SearchResultItem, Session, SessionEvent, SortBy
from clickstream.transfer import ImportChunk, ImportConfig, ImportItem
from harness import PATIENCE_S, run_program, start_program

START = datetime(2026, 1, 1, tzinfo=UTC)


def session(number: int) -> Session:
    """A session with every kind of field, or with few."""
    if number % 2:
        return Session(session_id=f"s{number}", created_at=START + timedelta(seconds=number))
    return Session(
        session_id=f"s{number}",
        search_query={"z": [1, 2.5, None, True], "a": {"é": "\u2028"}} if number % 4 else 'lamp, "desk"\n',
        search_results=(
            SearchResultItem(object_id="a", rank=0.1, meta={"k": -(2**53)}),
            SearchResultItem(object_id="b"),
        ),
        search_meta={"b": 1e300, "a": []},
        payload_filter={"price": {"$lt": 5}},
        sort_by=SortBy(field="price"),
        user_id="u",
        created_at=START + timedelta(seconds=number, microseconds=1),
        is_irrelevant=True,
        is_payload_search=True,
    )


def events(number: int) -> list[SessionEvent]:
    return [
        SessionEvent(
            event_id="" if place else f"e{number}",
            session_id=f"s{number}",
            object_id="b" if place else "",
            event_type="click" if place else "buy",
            created_at=START + timedelta(seconds=number + place),
            meta={"y": {"b": 1, "a": 2}, "x": "𝄞"},
            value=None if place else Money(currency_code="JPY" if number % 3 else "EUR", amount=Decimal("0.10")),
        )
        for place in range(number % 3)
    ]


async def fill(client: ClickstreamClient, count: int, filler: str = "") -> None:
    async def chunks() -> AsyncIterator[ImportChunk]:
        for start in range(0, count, 100):
            numbers = range(start, min(start + 100, count))
            yield ImportChunk(start + 1, [ImportItem(large(number, filler), events(number)) for number in numbers])

    async for _ in client.import_sessions(ImportConfig(import_id="fill"), chunks()):
        pass


def large(number: int, filler: str) -> Session:
    return session(number).model_copy(update={"search_query": filler}) if filler else session(number)


async def exported(client: ClickstreamClient, *arguments: str | Path) -> tuple[int, str, str]:
    return await run_program("export", *map(str, arguments), "--target", client.target)


async def test_the_round_trip_is_byte_for_byte_equal(
    client: ClickstreamClient, other: ClickstreamClient, tmp_path: Path
) -> None:
    """What one database exports, imported into another, is exported from there as the same bytes."""
    await fill(client, 250)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"

    assert 0 == (await exported(client, "--output", first))[0]
    code, _, complaints = await run_program("import", str(first), "--target", other.target)
    assert (0, "") == (code, complaints)
    assert 0 == (await exported(other, "--output", second))[0]

    assert 251 == len(first.read_bytes().splitlines())
    assert first.read_bytes() == second.read_bytes()


async def test_an_export_goes_back_where_it_came_from(client: ClickstreamClient, tmp_path: Path) -> None:
    """Imported into the database that it came from, an export is all duplicates."""
    await fill(client, 50)
    file = tmp_path / "a.jsonl"
    await exported(client, "--output", file)

    code, out, _ = await run_program("import", str(file), "--target", client.target)

    assert 0 == code
    assert ["sessions", "50", "0", "50", "0", "0"] in [line.split() for line in out.splitlines()]


async def test_the_trailer_is_what_the_lines_say(client: ClickstreamClient, tmp_path: Path) -> None:
    """The counts and totals of the trailer are those of the lines, and its digest is that of their bytes."""
    await fill(client, 30)
    file = tmp_path / "a.jsonl"
    _, _, account = await exported(client, "--output", file)

    *lines, last = file.read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    trailer = json.loads(last)["trailer"]

    assert hashlib.sha256(b"".join(lines)).hexdigest() == trailer["sha256"]
    assert f"sha256 of the lines before the trailer: {trailer['sha256']}" == account.splitlines()[-1]
    assert (30, sum(len(row["events"]) for row in rows)) == (trailer["sessions"], trailer["events"])
    for code in ("EUR", "JPY"):
        amounts = [
            Decimal(event["value"]["amount"])
            for row in rows
            for event in row["events"]
            if event.get("value", {}).get("currency_code") == code
        ]
        totals = {total["currency_code"]: total["amount"] for total in trailer["totals"]}
        assert (str(sum(amounts)) if amounts else None) == totals.get(code)


@pytest.mark.parametrize("cut", ["trailer", "row", "changed", "middle of a line"])
async def test_an_export_that_is_not_whole_is_noticed(client: ClickstreamClient, tmp_path: Path, cut: str) -> None:
    """An import of a cut-off or changed export fails and says so."""
    await fill(client, 10)
    file = tmp_path / "a.jsonl"
    await exported(client, "--output", file)
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = {
        "trailer": lines[:-1],
        "row": [*lines[:4], *lines[5:]],
        "changed": [lines[0].replace(b"lamp", b"limp"), *lines[1:]],
        "middle of a line": [*lines[:5], lines[5][:40]],
    }[cut]
    file.write_bytes(b"".join(damaged))

    code, _, complaints = await run_program("import", str(file), "--dry-run", "--target", client.target)

    assert 1 == code
    assert "trailer" in complaints.splitlines()[-1]


async def test_a_part_of_an_export_goes_in_as_such(client: ClickstreamClient, tmp_path: Path) -> None:
    """With --partial nobody asks for the trailer."""
    await fill(client, 10)
    file = tmp_path / "a.jsonl"
    await exported(client, "--output", file)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))

    assert 0 == (await run_program("import", str(file), "--partial", "--target", client.target))[0]


@pytest.mark.parametrize(("suffix", "unpack"), [(".gz", gzip.decompress), (".zst", None)])
async def test_a_compressed_export_is_the_same_inside(
    client: ClickstreamClient, tmp_path: Path, suffix: str, unpack: object
) -> None:
    """The suffix chooses the compression; two exports of the same are equal files."""
    await fill(client, 30)
    plain, one, two = (tmp_path / name for name in ("a.jsonl", f"one.jsonl{suffix}", f"two.jsonl{suffix}"))
    for file in (plain, one, two):
        assert 0 == (await exported(client, "--output", file))[0]

    packed = one.read_bytes()

    unpacked = gzip.decompress(packed) if unpack else zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    assert plain.read_bytes() == unpacked
    assert packed == two.read_bytes()


async def test_filters_choose(client: ClickstreamClient) -> None:
    """Each filter of the command line reaches the server: what comes is what it asks for."""
    await fill(client, 10)
    (batch,) = (await client.list_batches()).batches

    async def ids(*arguments: str) -> list[str]:
        code, out, _ = await exported(client, *arguments)
        assert 0 == code
        return [json.loads(line)["session"]["session_id"] for line in out.split("\n")[:-2]]

    assert ["s1", "s5"] == await ids("--session", "s5", "s1")
    assert ["s0", "s2", "s4", "s6", "s8"] == await ids("--user", "u")
    assert ["s1", "s3", "s5", "s7", "s9"] == await ids("--exclude-irrelevant")
    assert ["s3"] == await ids("--from", "2026-01-01T00:00:03Z", "--to", "2026-01-01T01:00:04+01:00")
    assert [f"s{number}" for number in range(10)] == await ids("--batch", batch.batch_id)
    _, out, _ = await exported(client, "--session", "s2", "--event-type", "click", "--events-limit", "0")
    row = json.loads(out.split("\n")[0])
    assert ([], 1) == (row["events"], row["event_count"])


@pytest.mark.parametrize("option", ["--batch", "--user", "--session", "--event-type"])
async def test_an_empty_choice_is_none(client: ClickstreamClient, option: str) -> None:
    """An id that is empty, as of a shell's variable that is not set, is refused: it does not export everything."""
    code, out, complaints = await exported(client, option, "")

    assert (2, "") == (code, out)
    assert complaints.endswith(f"argument {option}: must not be empty\n")


async def test_an_unknown_batch_leaves_nothing(client: ClickstreamClient, tmp_path: Path) -> None:
    """An export that fails says why and leaves no file, whole or partial."""
    code, _, complaints = await exported(client, "--batch", "nope", "--output", tmp_path / "a.jsonl")

    assert 1 == code
    assert "there is no batch 'nope'" in complaints
    assert [] == list(tmp_path.iterdir())  # noqa: ASYNC240  # a moment


async def test_an_export_of_nothing_says_so(client: ClickstreamClient, tmp_path: Path) -> None:
    """Where nothing matches, the export is complete, and the account says that it has no session."""
    code, _, account = await exported(client, "--session", "nope", "--output", tmp_path / "a.jsonl")

    assert 0 == code
    assert "no session in it" in account


async def test_a_link_stays_a_link(client: ClickstreamClient, tmp_path: Path) -> None:
    """The export to a symbolic link writes the file that it names."""
    await fill(client, 3)
    target, link = tmp_path / "folder" / "a.jsonl", tmp_path / "link"
    target.parent.mkdir()  # a moment
    link.symlink_to(target)

    assert 0 == (await exported(client, "--output", link))[0]

    assert link.is_symlink()
    assert 4 == target.read_bytes().count(b"\n")  # the trailer is a line, too
    assert [target] == list(target.parent.iterdir())


async def test_a_session_that_is_too_large_is_named(client: ClickstreamClient, tmp_path: Path) -> None:
    """A session whose events no message can hold ends the export with its id and the option that helps."""
    large = [
        SessionEvent(event_id=f"e{number}", session_id="s1", created_at=START, event_type="v", meta={"t": "x" * 60_000})
        for number in range(160)
    ]
    await client.register_session(session(1))
    for first in range(0, len(large), 80):
        await client.push_events(large[first : first + 80])

    code, _, complaints = await exported(client, "--output", tmp_path / "a.jsonl")

    assert 1 == code
    assert "session 's1'" in complaints
    assert "smaller --events-limit" in complaints
    assert 0 == (await exported(client, "--output", tmp_path / "a.jsonl", "--events-limit", "9"))[0]


@pytest.mark.parametrize(("suffix", "said"), [("", "sha256"), (".gz", "sha256 before compression")])
async def test_the_account_says_of_what_its_digest_is(
    client: ClickstreamClient, tmp_path: Path, suffix: str, said: str
) -> None:
    """The digest is that of the file, unless the account says otherwise."""
    await fill(client, 3)
    file = tmp_path / f"a.csv{suffix}"

    _, _, account = await exported(client, "--format", "csv", "--output", file)

    content = gzip.decompress(file.read_bytes()) if suffix else file.read_bytes()
    assert f"{said}: {hashlib.sha256(content).hexdigest()}" == account.splitlines()[-1]


async def test_csv_has_a_row_for_each_event(client: ClickstreamClient, tmp_path: Path) -> None:
    """Every event is one row, with the place of its object in the results that were shown."""
    await fill(client, 9)
    file = tmp_path / "a.csv"

    assert 0 == (await exported(client, "--format", "csv", "--output", file))[0]

    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert 9 == len(rows)
    found = [found for found in rows if found["session_id"] == "s8"]
    assert ['lamp, "desk"\n'] * 2 == [each["search_query"] for each in found]
    assert [("buy", "", "JPY", "0.10"), ("click", "1", "", "")] == [
        (each["event_type"], each["position"], each["currency_code"], each["amount"]) for each in found
    ]
    assert {"x": "𝄞", "y": {"a": 2, "b": 1}} == json.loads(found[0]["meta"])


async def test_parquet_has_what_the_lines_have(client: ClickstreamClient, tmp_path: Path) -> None:
    """A Parquet file has one row a session, in the same order and with the same events as JSON Lines."""
    await fill(client, 30)
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    await exported(client, "--output", lines)

    assert 0 == (await exported(client, "--format", "parquet", "--output", table, "--with-place"))[0]

    rows = pq.read_table(table).to_pylist()
    expected = [json.loads(line) for line in lines.read_text().split("\n")[:-2]]
    assert [row["session"]["session_id"] for row in expected] == [row["session_id"] for row in rows]
    assert [len(row["events"]) for row in expected] == [len(row["events"]) for row in rows]
    assert [row["totals"] for row in expected] == [row["totals"] for row in rows]
    assert set(range(1, 31)) == {row["session_number"] for row in rows}
    assert START + timedelta(microseconds=1) == rows[0]["created_at"]


async def test_a_full_disk_is_told(client: ClickstreamClient) -> None:
    """An export to a full device ends with a clear last line and fails."""
    await fill(client, 10)

    code, _, complaints = await exported(client, "--output", "/dev/full")

    assert 1 == code
    assert "No space left on device" in complaints.splitlines()[-1]


async def test_an_open_file_is_written_as_it_is(client: ClickstreamClient, tmp_path: Path) -> None:
    """An output that is open already, pipe or file, is written to: nothing is made beside it, or takes its place."""
    await fill(client, 200)
    whole, piped = tmp_path / "whole.jsonl", await exported(client, "--output", "/dev/fd/1")
    with whole.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clickstream_server", "export", "--target", client.target),
            *("--output", "/dev/fd/1"),
            stdout=file,
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaints = await process.communicate()

    assert (0, 0) == (piped[0], process.returncode), (piped[2], complaints)
    assert 201 == piped[1].count("\n")
    assert piped[1] == whole.read_text()


async def test_a_reader_that_goes_away_is_told(client: ClickstreamClient, tmp_path: Path) -> None:
    """An export into a pipe that nobody reads any more ends with one line and fails."""
    await fill(client, 2000, "x" * 500)
    process = await start_program("export", "--target", client.target)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        await process.stdout.readexactly(10)
        process.stdout._transport.close()  # type: ignore[attr-defined]  # there is no public way
        assert process.stderr is not None
        complaints = (await process.stderr.read()).decode()
        await process.wait()

    assert (1, 1) == (process.returncode, len(complaints.splitlines()))
    assert "went away" in complaints


async def test_ctrl_c_leaves_a_part_that_resume_completes(client: ClickstreamClient, tmp_path: Path) -> None:
    """SIGINT leaves FILE.part and no FILE; with --resume the export is completed, the same as one in one go."""
    await fill(client, 3000, "x" * 3000)
    file, whole, part = tmp_path / "a.jsonl", tmp_path / "whole.jsonl", tmp_path / "a.jsonl.part"
    os.mkfifo(part)  # it fills, so that the export waits
    process = await start_program("export", "--output", str(file), "--target", client.target)
    reading = await asyncio.to_thread(part.open, "rb", 0)
    state = tmp_path / "a.jsonl.part.resume"
    kept = b""
    while not state.exists():
        kept += await asyncio.to_thread(reading.read, 65536)
    process.send_signal(signal.SIGINT)
    rest = asyncio.create_task(asyncio.to_thread(reading.read))  # what is still buffered has to go somewhere
    async with asyncio.timeout(PATIENCE_S):
        _, complaints = await process.communicate()
    kept += await rest
    reading.close()
    part.unlink()
    part.write_bytes(kept)

    assert 130 == process.returncode
    assert "--resume" in complaints.decode().splitlines()[-1]
    assert not file.exists()
    assert len(kept) >= json.loads(state.read_text())["bytes"] > 0

    assert 0 == (await exported(client, "--output", file, "--resume"))[0]
    assert 0 == (await exported(client, "--output", whole))[0]
    assert whole.read_bytes() == file.read_bytes()
    assert {"a.jsonl", "whole.jsonl"} == {path.name for path in tmp_path.iterdir()}  # noqa: ASYNC240  # a moment


async def test_a_part_of_another_export_is_not_gone_on_with(client: ClickstreamClient, tmp_path: Path) -> None:
    """--resume with other options than those of the part is refused."""
    (tmp_path / "a.jsonl.part").write_bytes(b"")
    content = {"export": "x", "token": "", "bytes": 0, "sessions": 0, "events": 0, "totals": [], "digest": ""}
    content |= {"target": client.target, "sha256": ""}
    (tmp_path / "a.jsonl.part.resume").write_text(json.dumps(content))

    code, _, complaints = await exported(client, "--output", tmp_path / "a.jsonl", "--resume")

    assert 1 == code
    assert "other options" in complaints
