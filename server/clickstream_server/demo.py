"""The command `clickstream demo`: the whole way on one screen, on a database of its own that is gone afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from rich.console import Console
from rich.text import Text

from clickstream.client import ClickstreamClient
from clickstream.errors import ClickstreamError
from clickstream.models import SessionBatch, SessionWithEvents
from clickstream_server.app import running
from clickstream_server.bulk.account import FileAccount, LogAccount, disagreements
from clickstream_server.bulk.file_import import FileImport
from clickstream_server.bulk.import_command import log_config, sample
from clickstream_server.bulk.progress import bulk_progress
from clickstream_server.bulk.report import print_account, report_console, shown
from clickstream_server.bulk.sources import Format, opened
from clickstream_server.config import ENV_PREFIX, OFF, load_settings
from clickstream_server.failures import StartFailure

RELEASE_ID = "demo"
_TERMINATED = 143
_SESSIONS_SHOWN = 3
_RESULTS_SHOWN = 5
_DONE = {"click": "clicked", "add_to_cart": "put into the cart", "purchase": "bought"}
"""What is said of a result when the person did this to it, in the order in which people do it."""


@dataclass(slots=True)
class ReadBack:
    """What came out of the batch, counted while it streams by."""

    sessions: int = 0
    events: int = 0
    without_gap: bool = True
    """Whether the numbers were 1, 2, 3 and so on."""
    sealed: bool = False
    examples: list[SessionWithEvents] = field(default_factory=list)

    def take(self, found: SessionWithEvents) -> None:
        self.sessions += 1
        self.without_gap = self.without_gap and found.session_number == self.sessions
        self.events += len(found.events)
        if _done_to_results(found):
            self.examples = sorted([*self.examples, found], key=_liveliness, reverse=True)[:_SESSIONS_SHOWN]

    def disagreements(self, account: FileAccount, log: LogAccount, batch: SessionBatch) -> list[str]:
        """What of this does not agree with the account of the replay and with the batch."""
        pairs = {
            "sessions read back and sessions registered": (self.sessions, account.sessions.inserted),
            "sessions read back and the batch's counter": (self.sessions, batch.session_counter),
        }
        found = [f"{what}: {one:,} and {other:,}" for what, (one, other) in pairs.items() if one != other]
        # Events of refused queries are stored, and not read back; some of them may be duplicates.
        stored = log.events_of_queries.inserted
        if not stored - log.orphaned <= self.events <= stored:
            found.append(f"events read back and events stored of these queries: {self.events:,} and {stored:,}")
        if not self.without_gap:
            found.append("the numbers are not 1, 2, 3 and so on without a gap")
        if not self.sealed:
            found.append("the stream did not end with the batch sealed")
        if account.fault is not None:
            found.append(f"what was read and the whole log: {account.fault}")
        return found + disagreements(account, log)


class Screen:
    """Prints the steps, each as a headed line with the time since the one before."""

    def __init__(self) -> None:
        self.console = report_console()
        self._steps = 0
        self._since = monotonic()

    def step(self, name: str, said: str) -> None:
        """A step is done."""
        self._steps += 1
        now = monotonic()
        took = f"  ({now - self._since:.1f} s)"
        self.console.print(Text.assemble((f"{self._steps} {name:<10}", "bold cyan"), said, (took, "dim")))
        self._since = now


def demo(log: str | None, *, sample_queries: int) -> int:
    """Run the demo; return the exit code. Raises StartFailure, for an unreadable log before anything is started."""
    screen = Screen()
    with ExitStack() as stack:
        with bulk_progress() as progress:
            source = stack.enter_context(opened(log or sample(sample_queries), progress.read, Format.UBI))
            replay = FileImport(source, log_config("demo"), partial=False, refused=lambda _account, _refusal: None)
            replay.read_ahead(progress)
        account, held = replay.account, replay.account.log
        assert held is not None
        screen.step("read", f"{shown(source.name)}: {held.counts.lines:,} lines")
        if not held.queries:
            print_account(screen.console, account)
            raise StartFailure(f"{source.name} holds no query that can be used, so there is nothing to show")
        folder = stack.enter_context(TemporaryDirectory(prefix="clickstream-demo-", ignore_cleanup_errors=True))
        try:
            return asyncio.run(_on_a_server(screen, replay, held, Path(folder)))
        except ClickstreamError as error:
            raise StartFailure(f"the demo ended early: {error.message} ({error.reason or error.code.name})") from error
        except asyncio.CancelledError:
            return _TERMINATED


async def _on_a_server(screen: Screen, replay: FileImport, log: LogAccount, folder: Path) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that everything is cleaned up
    mongod = os.environ.get(f"{ENV_PREFIX}MONGOD")
    settings = load_settings({"listen": "127.0.0.1:0", "ui_listen": OFF, "data_dir": folder, "mongod": mongod}, {})
    account = replay.account
    async with running(settings) as server, ClickstreamClient(server.address) as client:
        screen.step("start", f"a server on {server.address}, with a MongoDB of its own")
        with bulk_progress() as progress:
            await replay.run(client, progress)
        screen.step("replay", f"{account.sessions.inserted:,} sessions and {account.events.inserted:,} events stored")
        if not account.sessions.inserted:
            print_account(screen.console, account)
            raise StartFailure("the server refused every session, so there is no batch to release")
        batch = (await client.release_batch(RELEASE_ID)).batch
        screen.step("release", f"batch {batch.batch_id}, sealed with {batch.session_counter:,} sessions")
        read = await _read_back(client, batch.batch_id)
        screen.step("read back", f"{read.sessions:,} sessions with {read.events:,} events, streamed from the batch")
    for example in read.examples:
        _print_session(screen.console, example)
    print_account(screen.console, account)
    waiting = account.events.inserted - read.events
    return _conclude(screen, read.disagreements(account, log, batch), waiting)


async def _read_back(client: ClickstreamClient, batch_id: str) -> ReadBack:
    read = ReadBack()
    async with aclosing(client.get_batch_pages(batch_id)) as pages:
        async for page in pages:
            for found in page.sessions:
                read.take(found)
            read.sealed = page.sealed
    return read


def _conclude(screen: Screen, disagreements: Sequence[str], waiting: int) -> int:
    """Say whether all agrees; return the exit code. `waiting`: events that are stored, and were not read back."""
    for disagreement in disagreements:
        screen.console.print(Text(f"does not agree: {disagreement}", style="bold red"))
    if disagreements:
        return 1
    screen.step("check", "all agrees: every session and event is back, without a gap")
    if waiting:
        screen.console.print(f"            events stored besides, whose sessions are not in this log: {waiting:,}")
    return 0


def _done_to_results(found: SessionWithEvents) -> dict[str, list[str]]:
    """What the person did to each of the results, in the words of `_DONE`."""
    results = {item.object_id for item in found.session.search_results}
    done: dict[str, list[str]] = {}
    for action, words in _DONE.items():
        for event in found.events:
            if event.event_type == action and event.object_id in results:
                said = done.setdefault(event.object_id, [])
                if words not in said:
                    said.append(words)
    return done


def _liveliness(found: SessionWithEvents) -> int:
    """How much was done to the results, for choosing what to show."""
    return sum(map(len, _done_to_results(found).values()))


def _print_session(console: Console, found: SessionWithEvents) -> None:
    """A session as a person reads it: the query, the first results, what was done to them."""
    done = _done_to_results(found)
    query = found.session.search_query
    head = Text.assemble(
        (f"\n  session {found.session_number:,}  ", "dim"),
        (f"“{shown(query) if isinstance(query, str) else 'a structured query'}”", "bold"),
        (f"  {found.session.created_at:%Y-%m-%d %H:%M} UTC, {found.event_count:,} events", "dim"),
    )
    console.print(head, no_wrap=True, overflow="ellipsis", soft_wrap=False)
    results = found.session.search_results
    for place, item in enumerate(results):
        if place < _RESULTS_SHOWN or item.object_id in done:
            words = ", ".join(done.get(item.object_id, ()))
            line = Text.assemble(
                f"  {place + 1:>6}  {shown(item.object_id):<24}", (f"  ← {words}" if words else "", "green")
            )
            console.print(line, no_wrap=True, overflow="ellipsis", soft_wrap=False)
    hidden = sum(1 for item in results[_RESULTS_SHOWN:] if item.object_id not in done)
    if hidden:
        console.print(f"          and {hidden:,} more results", style="dim")
