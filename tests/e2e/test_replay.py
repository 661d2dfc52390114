"""`clickstream replay` against real servers: the account says exactly what happened to every line."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clickstream import ClickstreamClient, OutcomeCounts, Session, SessionWithEvents, Unavailable
from clickstream_server.bulk.account import FileAccount, LogAccount, disagreements, stray_events
from clickstream_server.bulk.file_import import FileImport
from clickstream_server.bulk.import_command import log_config
from clickstream_server.bulk.progress import BulkProgress
from clickstream_server.bulk.sources import Format, Generated, opened
from clickstream_server.bulk.ubi.mapping import moment_of
from clickstream_server.sample import sample_log
from harness import PATIENCE_S, ServerProcess, run_program, served

STAMP = "2024-12-10T00:01:29.378Z"


@pytest.fixture
async def client(mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamClient]:
    async with served(mongodb_uri, database) as found:
        yield found


@pytest.fixture
async def server(mongodb_uri: str, database: str) -> AsyncIterator[ServerProcess]:
    process = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    yield process
    await process.kill()


class Replayed:
    """The account of a replay."""

    def __init__(self, account: FileAccount, log: LogAccount) -> None:
        self.account = account
        self.log = log
        self.sessions = account.sessions
        self.of_queries = log.events_of_queries
        self.of_unknown = stray_events(account, log)


async def replayed(client: ClickstreamClient, log: bytes) -> Replayed:
    """Replay this log."""
    with opened(Generated("log", log), lambda _: None, Format.UBI) as source:
        replay = FileImport(source, log_config("test"), partial=False, refused=lambda _account, _refusal: None)
        await replay.run(client, BulkProgress())
    assert replay.account.log is not None
    assert [] == disagreements(replay.account, replay.account.log)
    return Replayed(replay.account, replay.account.log)


async def read_back(client: ClickstreamClient) -> list[SessionWithEvents]:
    """Every session of the batch that a replay filled."""
    batch = (await client.release_batch("test")).batch
    return [found async for found in client.get_batch_sessions(batch.batch_id)]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def without_actions(log: bytes) -> bytes:
    return b"".join(line for line in log.splitlines(keepends=True) if not line.startswith((b'{"index"', b'{"create"')))


def listed(done: Replayed) -> dict[tuple[str, str], list[int]]:
    """What was not stored, why, and in which lines; each of the handmade troubles is shown in full."""
    notes = done.account.notes
    assert all(note.count == len(note.lines) for note in notes.values())
    return {key: note.lines for key, note in notes.items()}


def query(query_id: Any, **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "client_id": "c", "user_query": "lamp", "timestamp": STAMP} | fields


def event(query_id: Any, action: Any = "hover", **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "action_name": action, "timestamp": STAMP} | fields


def impression(query_id: str, object_id: str, ordinal: int) -> dict[str, Any]:
    about = {"object": {"object_id": object_id}, "position": {"ordinal": ordinal}}
    return event(query_id, "impression", event_attributes=about)


TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
TROUBLE: list[Any] = [
    impression("q1", "b", 1),  # 1: before its query
    query("q1"),  # 2
    impression("q1", "a", 0),  # 3
    event("q1", "click", event_attributes={"object": {"object_id": "a"}}),  # 4
    event("q1", "click"),  # 5: the server refuses it
    event("q1", "x" * 65),  # 6: the server refuses it
    event("q1", timestamp=TOMORROW),  # 7: the server refuses it
    event("q1", message="twice"),  # 8
    event("q1", message="twice"),  # 9: a duplicate
    event("elsewhere"),  # 10: of a query that is not here
    event(None),  # 11: no query
    query("q1", query_attributes={"page": 2}),  # 12: a further row
    query("q" * 257),  # 13: the server refuses it
    event("q" * 257),  # 14: and its event
    query("future", timestamp=TOMORROW),  # 15: the server refuses it
    event("future"),  # 16: an event of a refused query
    query("before"),  # 17: there with other content
    query("timeless", timestamp=None),  # 18
    '{"query_id": "cut',  # 19
    query(17, user_query=None, query_response_hit_ids=[1, 2]),  # 20: a number as its id
    event(17, timestamp=1733788889378),  # 21
    {"hello": "world"},  # 22
]


async def test_every_kind_of_trouble_is_accounted_for_exactly(client: ClickstreamClient) -> None:
    """Each line of a handmade log is counted under what became of it, and refusals name their lines."""
    await client.register_session(Session(session_id="before", search_query="other"))

    done = await replayed(client, as_lines(TROUBLE))

    log = done.log
    assert (22, 6, 12, 4, 5) == (log.counts.lines, log.query_rows, log.event_rows, log.refused_rows, log.queries)
    assert OutcomeCounts(inserted=2, conflicts=1, rejected=2) == done.sessions
    assert OutcomeCounts(inserted=6, duplicates=1, rejected=4) == done.of_queries
    assert OutcomeCounts(inserted=1) == done.of_unknown
    assert 1 == log.orphaned
    assert {
        ("row", "query_id is missing"): [11],
        ("row", "timestamp is missing"): [18],
        ("row", "not JSON"): [19],
        ("row", "neither a query (user_query) nor an event (action_name)"): [22],
        ("query", "session_id: must have 256 characters at most"): [13],
        ("query", "created_at: must not be more than 300 seconds in the future"): [15],
        ("query", "one of the same id is stored with other content, which stays"): [17],
        ("event", "object_id: must be set for a click"): [5],
        ("event", "event_type: must have 64 characters at most"): [6],
        ("event", "created_at: must not be more than 300 seconds in the future"): [7],
        ("event", "session_id: must have 256 characters at most"): [14],
    } == listed(done)


async def test_the_bulk_form_of_a_log_is_the_same_log(client: ClickstreamClient) -> None:
    """After the plain form, the bulk form of the same rows brings nothing new, and refuses the same."""
    bulk = [line for row in TROUBLE for line in ({"index": {"_index": "log", "_id": "x"}}, row)]
    plain = await replayed(client, as_lines(TROUBLE))

    again = await replayed(client, as_lines(bulk))

    assert (44, 22) == (again.log.counts.lines, again.log.counts.actions)
    assert OutcomeCounts(duplicates=3, rejected=2) == again.sessions
    assert OutcomeCounts(duplicates=7, rejected=4) == again.of_queries
    assert {key: [2 * line for line in found] for key, found in listed(plain).items()} == listed(again)


async def test_a_replay_stores_what_the_rows_say(client: ClickstreamClient) -> None:
    """Results come from impressions where there are no hits, and events come back with their session."""
    await replayed(client, as_lines(TROUBLE[:5]))

    (found,) = await read_back(client)

    assert [("a", 0.0), ("b", 1.0)] == [(item.object_id, item.rank) for item in found.session.search_results]
    assert Counter(impression=2, click=1) == Counter(stored.event_type for stored in found.events)


async def test_a_log_of_invalid_events_only_is_refused_event_by_event(client: ClickstreamClient) -> None:
    """Where every event is invalid, each is counted with its own reason."""
    log = [query("q"), *(event("q", "click" if number % 2 else "x" * 65, n=number) for number in range(1100))]

    done = await replayed(client, as_lines(log))

    assert OutcomeCounts(rejected=1100) == done.of_queries
    assert {
        ("event", "object_id: must be set for a click"): 550,
        ("event", "event_type: must have 64 characters at most"): 550,
    } == {key: note.count for key, note in done.account.notes.items()}


async def test_one_large_row_does_not_take_its_neighbours_along(client: ClickstreamClient) -> None:
    """Events larger than a limit or a message are refused with their lines; those before and after them are stored."""
    past_a_limit, past_a_message = event("q", blob="x" * 70_000), event("q", blob="x" * 7_900_000)
    rows = [query("q"), event("q", n=1), past_a_limit, past_a_message, event("q", n=2)]

    done = await replayed(client, as_lines(rows))

    assert OutcomeCounts(inserted=2, rejected=1) == done.of_queries
    assert {
        ("event", "meta: must have 65536 bytes as JSON at most"): [3],
        ("event", "is too large for a message"): [4],
    } == listed(done)


async def test_rows_that_grow_on_the_wire_go_in(client: ClickstreamClient) -> None:
    """Rows full of small numbers, which are ten times as large in a message, are sent in messages that have room."""
    numbers = [0] * 30_000

    done = await replayed(client, as_lines([query("q"), *(event("q", n=n, numbers=numbers) for n in range(40))]))

    assert OutcomeCounts(inserted=40) == done.of_queries


async def test_a_server_that_went_away_ends_the_replay(mongodb_uri: str, database: str) -> None:
    """A replay to a server that stopped raises Unavailable instead of counting anything as refused."""
    async with served(mongodb_uri, database) as client:
        address = client.target
    with opened(Generated("log", sample_log(5)), lambda _: None, Format.UBI) as source:
        replay = FileImport(source, log_config("test"), partial=False, refused=lambda _account, _refusal: None)
        async with ClickstreamClient(address, stream_resume_s=0.5) as client:
            with pytest.raises(Unavailable):
                await replay.run(client, BulkProgress())

    assert (0, 0) == (replay.account.sessions.total, replay.account.not_stored - replay.account.notes.count("row"))


# --- the real log -----------------------------------------------------------------------------------------------------


class HandCount:
    """The real log counted with plain dicts, by code that shares nothing with the program's."""

    def __init__(self, log: bytes) -> None:
        rows = [json.loads(line) for line in log.splitlines()]
        self.queries = [row for action, row in zip(rows[::2], rows[1::2], strict=True) if is_in(action, "ubi_queries")]
        self.events = [row for action, row in zip(rows[::2], rows[1::2], strict=True) if is_in(action, "ubi_events")]
        self.lines = len(rows)
        self.ids = {row["query_id"] for row in self.queries}
        with_query = [row for row in self.events if row["query_id"]]
        self.of_known = [row for row in with_query if row["query_id"] in self.ids]
        self.of_unknown = [row for row in with_query if row["query_id"] not in self.ids]
        self.without_query = len(self.events) - len(with_query)

    def results(self, query_id: str) -> list[str]:
        """What the query showed."""
        hits = max((row.get("query_response_hit_ids", []) for row in self.queries_of(query_id)), key=len)
        shown = [row for row in self.of_known if row["query_id"] == query_id and row["action_name"] == "impression"]
        shown.sort(key=lambda row: row["event_attributes"]["position"]["ordinal"])
        return hits or list(dict.fromkeys(row["event_attributes"]["object"]["object_id"] for row in shown))

    def queries_of(self, query_id: str) -> list[dict[str, Any]]:
        return [row for row in self.queries if row["query_id"] == query_id]


@pytest.fixture
def real_log(shared_log: Path) -> bytes:
    return shared_log.read_bytes()


@pytest.fixture
def by_hand(real_log: bytes) -> HandCount:
    return HandCount(real_log)


def is_in(action: dict[str, Any], index: str) -> bool:
    return bool(action["index"]["_index"] == index)


def distinct(rows: list[dict[str, Any]]) -> int:
    return len({json.dumps(row, sort_keys=True) for row in rows})


async def test_the_account_of_the_real_log_agrees_with_a_count_by_hand(
    client: ClickstreamClient, real_log: bytes, by_hand: HandCount
) -> None:
    """Every number of the account of the real log is what plain Python counts over the file."""
    done = await replayed(client, real_log)

    log = done.log
    assert (by_hand.lines, by_hand.lines // 2, 0) == (log.counts.lines, log.counts.actions, log.counts.blank)
    assert (len(by_hand.queries), len(by_hand.ids)) == (log.query_rows, log.queries)
    assert (473, 284) == (log.query_rows, log.queries)
    assert OutcomeCounts(inserted=284) == done.sessions
    assert len(by_hand.events) == log.event_rows + log.refused_rows
    for rows, outcomes in ((by_hand.of_known, done.of_queries), (by_hand.of_unknown, done.of_unknown)):
        assert OutcomeCounts(inserted=distinct(rows), duplicates=len(rows) - distinct(rows)) == outcomes
    assert {("row", "query_id is missing"): by_hand.without_query} == {
        key: note.count for key, note in done.account.notes.items()
    }
    assert 0 == log.rows_left_out.count


async def test_the_real_log_comes_back_complete(client: ClickstreamClient, real_log: bytes, by_hand: HandCount) -> None:
    """Every row of every query can be put together again from its session, with its results and its events."""
    await replayed(client, real_log)

    found = await read_back(client)

    assert list(range(1, 285)) == [each.session_number for each in found]
    assert by_hand.ids == {each.session.session_id for each in found}
    assert Counter(row["query_id"] for row in by_hand.of_known) == Counter(
        {each.session.session_id: len(each.events) for each in found if each.events}
    )
    for each in found:
        query_id = each.session.session_id
        assert by_hand.results(query_id) == [item.object_id for item in each.session.search_results]
        rows = by_hand.queries_of(query_id)
        assert min(moment_of(row["timestamp"]) for row in rows) == each.session.created_at
        assert {in_one_form(row) for row in rows} == {in_one_form(row) for row in rows_of(each.session)}


def rows_of(session: Session) -> list[dict[str, Any]]:
    """The rows that a session was made of."""
    meta = dict(session.search_meta)
    further = meta.pop("further_rows", [])
    assert session.created_at is not None
    first = {
        "query_id": session.session_id,
        "user_query": session.search_query,
        "timestamp": session.created_at.isoformat(),
        "query_response_hit_ids": [item.object_id for item in session.search_results],
    } | meta
    return [first, *(first | row for row in further)]


def in_one_form(row: dict[str, Any]) -> str:
    """A row as text to compare; one that lists no hits may have got them from impressions."""
    row = row | {"timestamp": moment_of(row["timestamp"]).isoformat()}
    if "query_response_id" not in row:
        row.pop("query_response_hit_ids", None)
    return json.dumps(row, sort_keys=True)


async def test_a_second_replay_of_the_real_log_stores_nothing(client: ClickstreamClient, real_log: bytes) -> None:
    """Replayed again, in bulk form and in plain form, everything of the real log is a duplicate."""
    first = await replayed(client, real_log)
    for log in (real_log, without_actions(real_log)):
        again = await replayed(client, log)

        assert OutcomeCounts(duplicates=284) == again.sessions
        assert OutcomeCounts(duplicates=first.of_queries.total) == again.of_queries
        assert OutcomeCounts(duplicates=first.of_unknown.total) == again.of_unknown
    assert 0 == again.log.counts.actions


# --- the command ------------------------------------------------------------------------------------------------------


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


async def test_the_command_prints_the_account_of_a_file(server: ServerProcess, tmp_path: Path) -> None:
    """A replay ends with the sums, the refusals with their lines and the batch, on stdout alone, and code 0."""
    log = tmp_path / "handmade.ndjson"
    log.write_bytes(as_lines(TROUBLE))

    code, out, errors = await run_program("replay", str(log), "--target", server.address, COLUMNS="120")

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
