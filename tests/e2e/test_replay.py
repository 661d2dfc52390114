"""`clickstream replay` against real servers: the account says exactly what happened to every line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from search_log import TROUBLE, as_lines, event, query

from clickstream import ClickstreamClient, OutcomeCounts, Session, SessionWithEvents, Unavailable
from clickstream_server.bulk.account import FileAccount, LogAccount, disagreements, stray_events
from clickstream_server.bulk.file_import import FileImport
from clickstream_server.bulk.import_command import log_config
from clickstream_server.bulk.progress import BulkProgress
from clickstream_server.bulk.sources import Format, Generated, opened
from clickstream_server.bulk.ubi.mapping import moment_of
from clickstream_server.sample import sample_log
from harness import served


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


def without_actions(log: bytes) -> bytes:
    return b"".join(line for line in log.splitlines(keepends=True) if not line.startswith((b'{"index"', b'{"create"')))


def listed(done: Replayed) -> dict[tuple[str, str], list[int]]:
    """What was not stored, why, and in which lines; each of the handmade troubles is shown in full."""
    notes = done.account.notes
    assert all(note.count == len(note.lines) for note in notes.values())
    return {key: note.lines for key, note in notes.items()}


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
