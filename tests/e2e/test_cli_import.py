"""`clickstream import` against real servers: what goes in, what is refused and where, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import zstandard

from clickstream import ClickstreamClient, ExportFilter, Session
from clickstream.export import ExportedSession
from clickstream.v1.clickstream_service_pb2_grpc import add_ClickstreamServiceServicer_to_server
from clickstream.v1.transfer_service_pb2_grpc import add_TransferServiceServicer_to_server
from clickstream_server.config import Settings
from clickstream_server.servicer import ClickstreamServicer
from clickstream_server.transfer_servicer import TransferServicer
from harness import PATIENCE_S, eventually, opened_dao, run_program, start_program

STAMP = "2024-12-10T00:01:29.378Z"


def row(number: int, *events: dict[str, Any], **fields: Any) -> dict[str, Any]:
    session = {"session_id": f"s{number:05}", "search_query": "lamp", "created_at": STAMP} | fields
    return {"session": session, "events": [{"created_at": STAMP, "object_id": "o"} | event for event in events]}


def lines_of(*rows: Any) -> bytes:
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in rows)


def value(amount: str, currency_code: str = "EUR") -> dict[str, Any]:
    return {"event_id": "e", "value": {"currency_code": currency_code, "amount": amount}}


async def imported(client: ClickstreamClient, *arguments: str | Path) -> tuple[int, str, str]:
    return await run_program("import", *map(str, arguments), "--target", client.target)


async def stored(client: ClickstreamClient) -> dict[str, ExportedSession]:
    return {
        each.session.session.session_id: each
        async for page in client.export_sessions(ExportFilter())
        for each in page.sessions
    }


def refused(errors: Path) -> list[tuple[int, str]]:
    return [(found["line"], found["reason"]) for found in map(json.loads, errors.read_text().splitlines())]


BAD = [
    row(1),
    b'{"session": {"session_id": "cut\n',
    b'{"session": {"session_id": "latin-\xe9"}}\n',
    row(4, user_id="u" * 257),
    row(1),
    b"\n",
    row(7, value("1", "XXQ")),
    row(8, value("1" * 40)),
    {"session_id": "unwrapped"},
    row(10, value("12.50")),
    row(11, search_query="other"),
]
REFUSED = [
    (2, "BROKEN_LINE"),
    (3, "NOT_UTF8"),
    (4, "INVALID_FIELD"),
    (5, "DUPLICATE_IN_FILE"),
    (7, "INVALID_FIELD"),
    (8, "INVALID_FIELD"),
    (9, "INVALID_FIELD"),
    (11, "CONTENT_CONFLICT"),
]


async def test_every_kind_of_bad_row_is_refused_with_its_line(client: ClickstreamClient, tmp_path: Path) -> None:
    """Bad rows are refused under their line numbers, as they stand in the file, and all others are stored."""
    await client.register_session(Session(session_id="s00011", search_query="first"))
    file, errors = tmp_path / "bad.jsonl", tmp_path / "errors.jsonl"
    file.write_bytes(lines_of(*BAD))

    code, _, _ = await imported(client, file, "--errors", errors)

    assert 2 == code
    assert REFUSED == sorted(refused(errors))
    rows = [found["row"] for found in map(json.loads, errors.read_text().splitlines())]
    assert json.dumps(BAD[3]) in rows
    assert {"s00001", "s00007", "s00010", "s00011"} == (await stored(client)).keys()


async def test_refused_rows_can_be_mended_and_imported(client: ClickstreamClient, tmp_path: Path) -> None:
    """The `row`s of the errors file, mended, go in as a file of their own, and then everything is there."""
    file, errors, mended = tmp_path / "a.jsonl", tmp_path / "errors.jsonl", tmp_path / "mended.jsonl"
    file.write_bytes(lines_of(row(1), row(2, value("1", "XXQ")), row(3, value("1" * 40))))
    await imported(client, file, "--errors", errors)
    rows = [json.loads(line)["row"] for line in errors.read_text().splitlines()]
    mended.write_text("".join(f"{text}\n" for text in rows).replace("XXQ", "EUR").replace("1" * 40, "1"))

    code, _, complaints = await imported(client, mended, "--errors", errors)

    assert (0, "") == (code, complaints)
    assert [0, 1, 1] == [each.session.event_count for each in (await stored(client)).values()]
    assert "" == errors.read_text()


async def test_the_real_log_goes_in_once(client: ClickstreamClient, shared_log: Path) -> None:
    """The first import of the real log stores its 284 sessions; a second stores nothing."""
    code, first, _ = await imported(client, shared_log)
    before = await stored(client)
    again, second, _ = await imported(client, shared_log)

    assert (2, 2) == (code, again)  # two of its rows name no query
    first_lines, second_lines = ([" ".join(line.split()) for line in out.splitlines()] for out in (first, second))
    assert "473 rows of queries = 284 queries + 189 more of the same queries" in first_lines
    assert "queries, as sessions 284 284 0 0 0" in first_lines
    assert "events of these queries 2,502 2,502 0 0 0" in first_lines
    assert "events of unknown queries* 942 941 1 0 0" in first_lines
    assert "queries, as sessions 284 0 284 0 0" in second_lines
    assert "events of these queries 2,502 0 2,502 0 0" in second_lines
    assert "events of unknown queries* 942 0 942 0 0" in second_lines
    assert before == await stored(client)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
async def test_compressed_files_are_read(client: ClickstreamClient, tmp_path: Path, pack: Any) -> None:
    """A compressed file, even one of several parts put together, is recognised by its content."""
    file = tmp_path / "without-a-suffix"
    file.write_bytes(pack(lines_of(row(1))) + pack(lines_of(row(2))))

    code, _, complaints = await imported(client, file)

    assert (0, "") == (code, complaints)
    assert {"s00001", "s00002"} == (await stored(client)).keys()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
async def test_a_truncated_file_is_noticed(client: ClickstreamClient, tmp_path: Path, pack: Any) -> None:
    """Of a cut-off compressed file the whole rows go in, and the import says that it was cut off and fails."""
    file = tmp_path / "cut"
    # Random text does not compress, so that the cut comes in the middle of the rows.
    whole = b"".join(pack(lines_of(row(number, search_query=os.urandom(300).hex()))) for number in range(10))
    file.write_bytes(whole[:-100])

    code, _, complaints = await imported(client, file)

    assert 1 == code
    assert "the file is cut off" in complaints.splitlines()[-1]
    assert [f"s{number:05}" for number in range(9)] == sorted(await stored(client))


async def test_standard_input_is_read(client: ClickstreamClient) -> None:
    """`-` reads rows from standard input to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clickstream_server", "import", "-", "--target", client.target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        await process.communicate(lines_of(row(1), row(2)))

    assert 0 == process.returncode
    assert {"s00001", "s00002"} == (await stored(client)).keys()


async def test_a_dry_run_writes_nothing(client: ClickstreamClient, tmp_path: Path) -> None:
    """A dry run tells the same refusals as the import itself, and stores nothing."""
    file, trial, real = tmp_path / "a.jsonl", tmp_path / "trial.jsonl", tmp_path / "real.jsonl"
    file.write_bytes(lines_of(row(1), row(2, value("1", "XXQ")), row(3), row(3)))

    code, _, _ = await imported(client, file, "--dry-run", "--errors", trial)
    after_trial = await stored(client)
    await imported(client, file, "--errors", real)

    assert (2, {}) == (code, after_trial)
    assert [(2, "INVALID_FIELD"), (4, "DUPLICATE_IN_FILE")] == sorted(refused(trial)) == sorted(refused(real))


async def test_atomic_sessions_fall_with_a_bad_event(client: ClickstreamClient, tmp_path: Path) -> None:
    """With --atomic nothing of a session with an invalid event is stored; without it only the event is missing."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of(row(1, {"event_id": "good"}, value("1", "XXQ")), row(2)))

    await imported(client, file, "--atomic")
    atomic = await stored(client)
    await imported(client, file)

    assert {"s00002"} == atomic.keys()
    assert 1 == (await stored(client))["s00001"].session.event_count


async def test_what_made_a_session_fall_is_told_rather_than_what_fell(
    client: ClickstreamClient, tmp_path: Path
) -> None:
    """With --atomic the reason of a refused row is its conflict, however many sound events stand before that one."""
    file, errors = tmp_path / "a.jsonl", tmp_path / "errors.jsonl"
    file.write_bytes(lines_of(row(1, {"event_id": "e20"})))
    await imported(client, file)
    file.write_bytes(lines_of(row(1, *({"event_id": f"e{n:02}"} for n in range(20)), {"event_id": "e20", "meta": {}})))
    file.write_bytes(file.read_bytes().replace(b'"meta": {}', b'"meta": {"other": 1}'))

    await imported(client, file, "--atomic", "--errors", errors)

    found = json.loads(errors.read_text())
    assert "CONTENT_CONFLICT" == found["reason"]
    assert "events[20]: one of the same id is stored with other content, which stays" == found["message"]


async def test_rows_that_fail_alike_are_counted_together(client: ClickstreamClient, tmp_path: Path) -> None:
    """The summary has one line for a reason, wherever in their rows the faults are."""
    file = tmp_path / "a.jsonl"
    whole = [row(number) for number in range(30)]
    cut = [json.dumps(row(number)).encode()[: 40 + number] + b"\n" for number in range(5)]
    file.write_bytes(lines_of(*whole, *whole, *cut, *(b" " * number + b"\xff\n" for number in range(5))))

    arguments = ("--max-failure-ratio", "1", "--target", client.target)
    _, summary, _ = await run_program("import", str(file), *arguments, COLUMNS="160")

    assert [
        ("session_id: this session stands in an earlier line already", "30"),
        ("Invalid JSON: EOF while parsing a string", "5"),
        ("not UTF-8", "5"),
    ] == re.findall(r"^(.*?) {2,}([0-9]+)  lines? ", summary, re.MULTILINE)


async def test_replace_stores_the_new_content(client: ClickstreamClient, tmp_path: Path) -> None:
    """With --replace what is stored with other content is replaced, and nothing is refused."""
    await client.register_session(Session(session_id="s00001", search_query="old"))
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of(row(1)))

    code, _, _ = await imported(client, file, "--replace")

    assert 0 == code
    assert "lamp" == (await stored(client))["s00001"].session.session.search_query


@pytest.mark.parametrize(
    ("bad", "said"),
    [(b"broken\n", "12 of 112 rows failed"), (lines_of(row(1, user_id=" ")), "50 of 150 rows failed")],
    ids=["here", "at the server"],
)
async def test_too_many_failures_stop_the_import(
    client: ClickstreamClient, tmp_path: Path, bad: bytes, said: str
) -> None:
    """Past the failure ratio, by whomever rows are refused, the import fails and says what was too much."""
    file = tmp_path / "a.jsonl"
    rest = [bad.replace(b"s00001", f"bad{number}".encode()) for number in range(50)]
    file.write_bytes(lines_of(*(row(number) for number in range(100)), *rest))

    stopped, _, complaints = await imported(client, file)
    at_once, _, of_a_part = await imported(client, file, "--max-failure-ratio", "0.005")
    allowed, _, _ = await imported(client, file, "--max-failure-ratio", "0.5")

    assert (1, 1, 2) == (stopped, at_once, allowed)
    assert f"{said}, more than the allowed 10% (" in complaints.splitlines()[-1]
    assert ", more than the allowed 0.5% (" in of_a_part.splitlines()[-1]


async def test_few_failures_early_in_a_file_do_not_stop_it(client: ClickstreamClient, tmp_path: Path) -> None:
    """Rows refused before anything was sent are judged against all that were read, not against none."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of(*(b"x\n" if number % 20 == 0 else row(number) for number in range(4000))))

    code, _, _ = await imported(client, file)

    assert 2 == code
    assert 3800 == len(await stored(client))


async def test_a_session_with_more_events_than_a_chunk_goes_in(client: ClickstreamClient, tmp_path: Path) -> None:
    """A session with 12,000 events is sent in parts; a bad one among them is named by its place in the row."""
    events = [{"event_id": f"e{number}"} for number in range(12_000)]
    events[11_000]["object_id"] = ""
    file, errors = tmp_path / "a.jsonl", tmp_path / "errors.jsonl"
    file.write_bytes(lines_of(row(1, *events)))

    code, _, _ = await imported(client, file, "--errors", errors)

    assert 2 == code
    assert "events[11000]" in json.loads(errors.read_text())["message"]
    assert 11_999 == (await client.get_session("s00001", events_limit=0)).event_count  # type: ignore[union-attr]


async def test_a_large_row_is_refused_once(client: ClickstreamClient, tmp_path: Path) -> None:
    """A row of which several parts fail is one refused row, so that it can be mended."""
    events = [{"event_id": f"e{number}"} for number in range(12_000)]
    for number in (100, 6_000, 11_000):
        events[number]["object_id"] = ""
    file, errors = tmp_path / "a.jsonl", tmp_path / "errors.jsonl"
    file.write_bytes(lines_of(row(1, *events), row(2, {"event_id": "e", "object_id": ""})))

    code, out, _ = await imported(client, file, "--errors", errors)

    assert 2 == code
    assert [(1, "INVALID_FIELD"), (2, "INVALID_FIELD")] == refused(errors)
    assert "2 rows were refused, in whole or in part" in out


async def test_an_event_of_another_session_is_refused_wherever_it_stands(
    client: ClickstreamClient, tmp_path: Path
) -> None:
    """What a row says of another session is not stored, also where the row is so large that it is sent in parts."""
    events = [{"event_id": f"e{number}"} for number in range(6_000)]
    events[5_500]["session_id"] = "s00002"
    file, errors = tmp_path / "a.jsonl", tmp_path / "errors.jsonl"
    file.write_bytes(lines_of(row(1, *events), row(2), row(3, {"event_id": "e", "session_id": "s00002"})))

    code, _, _ = await imported(client, file, "--errors", errors)

    assert 2 == code
    assert [(1, "INVALID_FIELD"), (3, "INVALID_FIELD")] == refused(errors)
    found = await stored(client)
    assert {"s00002": 0, "s00003": 0} == {name: each.session.event_count for name, each in found.items()}


async def test_a_complete_import_does_not_fail_for_the_batch_that_collects(
    mongodb_uri: str, database: str, tmp_path: Path
) -> None:
    """A server that goes away once everything is acknowledged costs the line about its batch, and nothing else."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of(row(1), b"broken\n"))

    class Leaving(ClickstreamServicer):
        asked = 0

        async def ListBatches(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
            self.asked += 1
            if self.asked > 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            return await super().ListBatches(request, context)

    async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
        server = grpc.aio.server()
        add_ClickstreamServiceServicer_to_server(leaving := Leaving(dao), server)
        add_TransferServiceServicer_to_server(TransferServicer(dao), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        code, out, complaints = await run_program("import", str(file), "--target", f"127.0.0.1:{port}")
        await server.stop(0)

    assert (2, "") == (code, complaints)
    assert "1 row was refused" in out
    assert leaving.asked > 1


async def test_a_missing_file_is_told_before_anything_is_done(client: ClickstreamClient, tmp_path: Path) -> None:
    """If one of the files does not exist, none is imported, and the last line names it."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of(row(1)))

    code, _, complaints = await imported(client, file, tmp_path / "nope.jsonl")

    assert 1 == code
    assert "nope.jsonl" in complaints.splitlines()[-1]
    assert {} == await stored(client)


async def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    """Without a server the import ends with one line that says what to do."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines_of(row(1)))

    code, _, complaints = await run_program("import", str(file), "--target", "127.0.0.1:1")

    assert (1, 1) == (code, len(complaints.splitlines()))
    assert "`python -m clickstream_server serve`" in complaints


@pytest.mark.parametrize("content", [b"", b"\n\n"])
async def test_an_empty_file_is_told(client: ClickstreamClient, tmp_path: Path, content: bytes) -> None:
    """A file without rows is imported, and the account says that there was nothing in it."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)

    code, out, _ = await imported(client, file)

    assert 0 == code
    assert "nothing in it" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_says_how_far_it_got(client: ClickstreamClient, tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT or SIGTERM while an import waits for more rows ends it with 130 and an account of what was stored."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = await start_program("import", str(pipe), "--target", client.target)
    writing = await asyncio.to_thread(pipe.open, "wb", 0)
    with writing:
        await asyncio.to_thread(writing.write, lines_of(*(row(number) for number in range(1500))))

        async def some_are_stored() -> bool:
            return bool((await client.list_batches()).batches)

        await eventually(some_are_stored, "rows are stored")
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            _, complaints = await process.communicate()

    assert 130 == process.returncode
    # The answer may have been on its way.
    assert re.search(r"interrupted\. (So far|Nothing was ack).* is safe", complaints.decode().splitlines()[-1])
