"""`clickstream tail` as a process, against servers that go on, die and come back."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import sys
import termios
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from clickstream import (
    ClickstreamClient,
    DeadlineExceeded,
    Money,
    SearchResultItem,
    Session,
    SessionEvent,
    Unavailable,
)
from harness import PATIENCE_S, ServerProcess, ended, eventually, run_program, runs, start_program

PROGRAM = "python -m clickstream_server"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


async def register(client: ClickstreamClient, *numbers: int) -> str:
    """Register sessions with these numbers as their ids, in order, whatever it takes; return their batch."""

    async def registered(session: Session) -> str:
        with suppress(Unavailable, DeadlineExceeded):  # the server is being killed
            return (await client.register_session(session)).session.batch_id
        return ""

    for number in numbers:
        session = Session(session_id=f"s{number}")
        batch_id: str = await eventually(partial(registered, session), "registered")
    return batch_id


async def next_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        return (await process.stdout.readline()).decode().rstrip("\n")


async def end_of(process: asyncio.subprocess.Process) -> tuple[int, list[str], str]:
    """As `ended`, with what it printed yet in lines."""
    code, output, errors = await ended(process)
    return code, output.splitlines(), errors


def numbers_of(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines]


# --- lines ----------------------------------------------------------------------------------------------------------


async def test_a_line_has_what_one_looks_for(client: ClickstreamClient) -> None:
    """A line shows time, number, id, results, clicks and query, and replaces only what a terminal would obey."""
    results = tuple(SearchResultItem(object_id=f"o{n}") for n in range(1000))
    sessions = [
        Session(session_id="s-1", search_query="\x1b[31mred\x07 lamp\u202e\n", search_results=results),
        Session(session_id="s\t2", search_query={"brand": "é"}, search_results=results[:1]),
        Session(session_id="s-long-3"),
        Session(session_id="s-4", search_query="東京\u3000天気 \u0645\u06cc\u200c\u062e"),
    ]
    await client.push_events(
        [
            *(SessionEvent(session_id="s-1", event_id=f"c{n}", object_id="o1") for n in range(101)),
            SessionEvent(session_id="s\t2", event_id="c", object_id="o1"),
            SessionEvent(session_id="s\t2", event_id="v", event_type="view"),
        ]
    )
    done = [(await client.register_session(session)).session for session in sessions]
    await client.release_batch("r")
    code, output, errors = await run_program("tail", done[0].batch_id, "--target", client.target, COLUMNS="")

    times = [f"{each.registered_at:%Y-%m-%dT%H:%M:%SZ}" for each in done]
    assert [
        f"{times[0]}      1  s-1  1,000 results  100+ clicks  �[31mred� lamp��",
        f'{times[1]}      2  s�2  1 result       1 click      {{"brand": "é"}}',
        f"{times[2]}      3  s-long-3  0 results      0 clicks",
        f"{times[3]}      4  s-4       0 results      0 clicks     東京\u3000天気 \u0645\u06cc\u200c\u062e",
    ] == output.splitlines()
    assert (0, f"clickstream: batch {done[0].batch_id} is sealed; its last number is 4\n") == (code, errors)


@pytest.mark.parametrize("query", ["q" * 500, "漢字" * 200], ids=["narrow", "wide"])
async def test_a_query_is_shortened_to_the_width(client: ClickstreamClient, query: str) -> None:
    """No line is wider than the terminal; without a terminal nothing is cut off."""
    done = (await client.register_session(Session(session_id="s1", search_query=query))).session
    await client.release_batch("r")
    arguments = ("tail", done.batch_id, "--target", client.target)
    _, narrow, _ = await run_program(*arguments, COLUMNS="80")
    _, whole, _ = await run_program(*arguments, COLUMNS="")

    line = narrow.rstrip("\n")
    assert line.endswith((f"{query[0]}…", f"{query[1]}…", " …"))
    assert len(line) + sum(char in "漢字" for char in line) == 80
    assert whole.endswith(f"  {query}\n")


async def test_json_is_that_of_export(client: ClickstreamClient) -> None:
    """`--json` prints the lines of `clickstream export --with-place`, byte for byte, but for its trailer."""
    for n in range(3):
        event = SessionEvent(
            session_id=f"s{n}",
            event_id="e",
            event_type="buy",
            created_at=NOON,
            value=Money(currency_code="EUR", amount="0.10"),
        )
        session = Session(session_id=f"s{n}", search_query={"b": [1], "a": "é\n"}, created_at=NOON, user_id="u")
        await client.push_events([event, event.model_copy(update={"event_id": "f"})])
        batch_id = (await client.register_session(session)).session.batch_id
    await client.release_batch("r")
    target = ("--target", client.target)
    code, tailed, _ = await run_program("tail", batch_id, "--json", *target)
    _, exported, _ = await run_program("export", "--batch", batch_id, "--with-place", *target)

    assert 0 == code
    assert 3 == len(tailed.splitlines())
    assert exported.splitlines()[:-1] == tailed.splitlines()


def first_total(row: dict[str, Any]) -> str | None:
    """The amount of the first of a row's totals; None if it says nothing of totals."""
    return row["totals"][0]["amount"] if "totals" in row else None


async def test_events_can_be_limited(client: ClickstreamClient) -> None:
    """A session too large to be shown as JSON ends the tail with the option that helps; `--events-limit` shows it.

    With that option a line has so many events at most; `event_count` says how many are stored. Totals would be of some.
    """
    batch_id = await register(client, 1, 2)
    meta = {"text": "x" * 60_000}
    bought = SessionEvent(session_id="s2", object_id="o", meta=meta, value=Money(currency_code="EUR", amount="0.10"))
    events = [bought.model_copy(update={"event_id": f"e{n:03}"}) for n in range(160)]
    await client.push_events([bought.model_copy(update={"event_id": "e", "session_id": "s1"})])
    await client.push_events(events[:80])
    await client.push_events(events[80:])
    await client.release_batch("r")
    arguments = ("tail", batch_id, "--target", client.target)
    code, output, errors = await run_program(*arguments, "--json")
    _, limited, _ = await run_program(*arguments, "--json", "--events-limit", "3")
    _, lines, _ = await run_program(*arguments, "--events-limit", "3")

    assert (1, [1]) == (code, [json.loads(line)["session_number"] for line in output.splitlines()])
    assert "session 's2'" in errors
    assert "with a smaller --events-limit (MESSAGE_TOO_LARGE)" in errors
    shown = [json.loads(line) for line in limited.splitlines()]
    assert [(1, 1, 1, "0.10"), (2, 3, 160, None)] == [
        (found["session_number"], len(found["events"]), found["event_count"], first_total(found)) for found in shown
    ]
    assert "3+ clicks" in lines.splitlines()[1]


# --- where it begins and ends ---------------------------------------------------------------------------------------


async def test_it_follows_the_batch_that_collects_now(client: ClickstreamClient) -> None:
    """Without a batch it follows the one that collects, shows what comes, and ends when that is released."""
    batch_id = await register(client, 1, 2)
    process = await start_program("tail", "--target", client.target)
    assert [1, 2] == numbers_of([await next_line(process), await next_line(process)])
    await register(client, 3)
    assert [3] == numbers_of([await next_line(process)])
    await client.release_batch("r")
    await register(client, 4)
    code, further, errors = await end_of(process)

    assert (0, []) == (code, further)
    assert f"clickstream: batch {batch_id} is sealed; its last number is 3\n" == errors


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--after", "3"), [4, 5]),
        (("--after", "5"), []),
        (("--last", "2"), [4, 5]),
        (("--last", "9"), [1, 2, 3, 4, 5]),
        (("--last", "0"), []),
    ],
)
async def test_it_begins_where_one_says(
    client: ClickstreamClient, options: tuple[str, str], expected: list[int]
) -> None:
    """`--after` begins behind a number, `--last` with so many of the numbers given out."""
    batch_id = await register(client, *range(1, 6))
    await client.release_batch("r")
    code, output, _ = await run_program("tail", batch_id, *options, "--target", client.target)

    assert (0, expected) == (code, numbers_of(output.splitlines()))


async def test_it_ends_at_the_last_number(client: ClickstreamClient) -> None:
    """Where the last sessions of a batch have moved to another one, the last number told is the batch's as before."""
    batch_id = await register(client, *range(1, 4))
    await client.release_batch("r")
    await client.update_session(Session(session_id="s3"))
    code, output, errors = await run_program("tail", batch_id, "--target", client.target)

    assert (0, [1, 2]) == (code, numbers_of(output.splitlines()))
    assert f"clickstream: batch {batch_id} is sealed; its last number is 3\n" == errors


async def test_a_number_that_the_batch_does_not_have_is_refused(client: ClickstreamClient) -> None:
    """`--after` a number that was not given out, as of another batch, passes over no sessions: it is refused."""
    batch_id = await register(client, *range(1, 6))
    said = f"clickstream: --after 6: the last number of batch {batch_id} is 5\n"

    assert (1, "", said) == await run_program("tail", "--after", "6", "--target", client.target)
    await client.release_batch("r")
    assert (1, "", said) == await run_program("tail", batch_id, "--after", "6", "--target", client.target)


async def test_what_cannot_be_followed(client: ClickstreamClient) -> None:
    """An unknown batch, nothing that collects, and nobody that answers: one line, and exit code 1."""
    target = ("--target", client.target)
    assert (1, "", "clickstream: there is no batch 'b' (BATCH_NOT_FOUND)\n") == await run_program("tail", "b", *target)
    none = "clickstream: no batch is collecting: nothing was registered since the last release (NO_COLLECTING_BATCH)\n"
    assert (1, "", none) == await run_program("tail", *target)
    code, _, complaints = await run_program("tail", "", *target)  # as of a shell's variable that is not set
    assert (2, True) == (code, complaints.endswith("BATCH: must not be empty\n"))
    nobody = await run_program("tail", "--target", "127.0.0.1:1")
    assert (1, "", "clickstream: nobody answers at 127.0.0.1:1\n") == nobody


async def test_ctrl_c_says_how_to_go_on(client: ClickstreamClient) -> None:
    """Ctrl-C ends it with exit code 130 and the line that shows the rest, which calls the program as it was called."""
    batch_id = await register(client, 1, 2)
    process = await start_program("tail", "--json", "--events-limit", "9", "--target", client.target)
    assert [1, 2] == [json.loads(await next_line(process))["session_number"] for _ in range(2)]
    process.send_signal(signal.SIGINT)
    code, further, errors = await end_of(process)

    to_go_on = f"tail {batch_id} --after 2 --json --events-limit 9 --target {client.target}"
    assert (130, [], f"clickstream: interrupted; to go on: {PROGRAM} {to_go_on}\n") == (code, further, errors)
    await register(client, 3)
    await client.release_batch("r")
    code, output, _ = await run_program(*to_go_on.split())
    assert (0, [3]) == (code, [json.loads(line)["session_number"] for line in output.splitlines()])


async def test_sigterm_ends_it_where_a_script_has_started_it(client: ClickstreamClient) -> None:
    """A shell in a script has SIGINT ignored in what it starts with `&`: SIGTERM ends that in order all the same."""
    batch_id = await register(client, 1)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = await start_program("tail", "--json", "--target", client.target)
    finally:
        signal.signal(signal.SIGINT, before)
    await next_line(process)
    process.send_signal(signal.SIGTERM)
    code, _, errors = await end_of(process)

    to_go_on = f"{PROGRAM} tail {batch_id} --after 1 --json --target {client.target}"
    assert (130, f"clickstream: interrupted; to go on: {to_go_on}\n") == (code, errors)


async def test_ctrl_c_ends_it_where_nobody_reads(client: ClickstreamClient) -> None:
    """Ctrl-C ends a write that waits; the line to go on names the last number that went out whole."""
    query = "q" * 4000
    sessions = [Session(session_id=f"s{n}", search_query=query) for n in range(200)]
    batch_id = (await asyncio.gather(*map(client.register_session, sessions)))[0].session.batch_id
    process = await start_program("tail", batch_id, "--json", "--target", client.target)
    pipe: Any = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]  # there is no public way

    async def is_full() -> bool:
        waiting = bytearray(4)
        fcntl.ioctl(pipe.get_extra_info("pipe"), termios.FIONREAD, waiting)
        return int.from_bytes(waiting, sys.byteorder) > 30_000  # of 65,536, in pieces that do not fill its pages

    async def has_ended() -> bool:
        return not runs(process.pid)

    await next_line(process)
    await eventually(is_full, "the pipe is full")
    process.send_signal(signal.SIGINT)
    await eventually(has_ended, "the end, without a reader")
    code, further, errors = await end_of(process)

    whole = [json.loads(line)["session_number"] for line in further if line.endswith("}")]
    assert list(range(2, 2 + len(whole))) == whole
    to_go_on = f"{PROGRAM} tail {batch_id} --after {1 + len(whole)} --json --target {client.target}"
    assert (130, f"clickstream: interrupted; to go on: {to_go_on}\n") == (code, errors)


async def test_a_reader_that_goes_away_ends_it_quietly(client: ClickstreamClient) -> None:
    """With `| head -1` it ends when the next session comes, without a word."""
    await register(client, 1)
    process = await start_program("tail", "--target", client.target)
    assert [1] == numbers_of([await next_line(process)])
    transport: Any = process._transport  # type: ignore[attr-defined]  # the only way to close one's own end
    transport.get_pipe_transport(1).close()
    await register(client, 2)

    assert (0, [], "") == await end_of(process)


# --- a server that goes away ------------------------------------------------------------------------------------------


async def test_a_killed_server_costs_nothing(mongodb_uri: str, database: str) -> None:
    """Servers are killed while sessions come, and others take their place: every number is shown once, in order."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    address, sent = server.address, 0
    async with ClickstreamClient(address) as client:
        await register(client, 0)
        process = await start_program("tail", "--target", address)
        shown = [await next_line(process)]
        for _ in range(3):
            writing = asyncio.create_task(register(client, *range(sent + 1, sent + 101)))
            while len(shown) < sent + 20:  # in mid-stream
                shown.append(await next_line(process))
            await server.kill()
            server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, listen=address)
            await writing
            sent += 100
        await client.release_batch("r")
        code, further, errors = await end_of(process)
    await server.stop()

    assert 0 == code
    assert list(range(1, sent + 2)) == numbers_of(shown + further)
    assert [f"s{n}" for n in range(sent + 1)] == [line.split()[2] for line in shown + further]
    assert errors.endswith(f"is sealed; its last number is {sent + 1}\n")


async def test_it_says_that_it_waits(mongodb_uri: str, database: str) -> None:
    """While the server is away it says so, once; when it is back, the tail goes on."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    address = server.address
    async with ClickstreamClient(address) as client:
        await register(client, 1)
        process = await start_program("tail", "--target", address)
        shown = [await next_line(process)]
        await server.kill()
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            waiting = (await process.stderr.readline()).decode()
        server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database, listen=address)
        await register(client, 2)
        shown.append(await next_line(process))
        await client.release_batch("r")
        code, further, errors = await end_of(process)
    await server.stop()

    assert f"clickstream: waiting for the server: nobody answers at {address}\n" == waiting
    assert (0, [1, 2], []) == (code, numbers_of(shown), further)
    assert ["clickstream: the server answers again"] == errors.splitlines()[:1]
    assert 2 == len(errors.splitlines())
