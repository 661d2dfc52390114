"""The account of a replay as a person reads it, and the progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from clickstream.models import SessionBatch
from clickstream_server.replay.account import Account, Note

_EXPLAINED = (
    "duplicates: stored before with the same content, or twice in the log\n"
    "conflicts: stored before with other content, which stays\n"
    "* of queries that are not in this file; they are stored all the same"
)
_READ_STEP_BYTES = 256 * 1024


def shown(text: str) -> str:
    """Text of a log, safe to print: a terminal would obey control characters."""
    return "".join(char if char.isprintable() else "�" for char in text)


def print_account(console: Console, account: Account, name: str) -> None:
    """Print every count, what was not stored and why, and whether the sums agree."""
    console.print(Text(f"\nAccount of {shown(name)}", style="bold"))
    console.print(
        f"{account.lines:,} lines = {account.query_rows:,} rows of queries + {account.event_rows:,} rows of events "
        f"+ {account.action_lines:,} action lines + {account.blank_lines:,} blank + {account.refused_rows:,} refused"
    )
    console.print(
        f"{account.query_rows:,} rows of queries = {account.queries:,} queries "
        f"+ {account.further_rows:,} more of the same queries"
    )
    console.print(Padding(_outcomes(account), (1, 0), expand=False))
    if account.notes:
        console.print(Padding(_not_stored(account), (0, 0, 1, 0), expand=False))
    if account.rows_left_out.count:
        console.print(
            f"{account.rows_left_out.count:,} further rows of queries found no room in search_meta beside the others; "
            f"further_rows_left_out in it says how many. These queries start in {_lines(account.rows_left_out)}.\n"
        )
    for disagreement in account.disagreements():
        console.print(f"The sums do not agree, a fault of this program. {disagreement}", style="bold red")
    if not account.disagreements():
        refused = account.not_stored
        console.print("Every line is accounted for." + (f" Not stored: {refused:,}, as listed." if refused else ""))


def print_batches(console: Console, account: Account, collecting: SessionBatch | None) -> None:
    """Print where the new sessions went and which batch collects now."""
    for batch_id, numbers in account.batches.items():
        console.print(
            f"Batch {batch_id}: {numbers.count:,} new sessions, numbers {numbers.first:,} to {numbers.last:,}."
        )
    if not account.batches:
        console.print("No session was new.")
    if collecting is not None:
        console.print(
            f"Batch {collecting.batch_id} collects now; its numbers so far: 1 to {collecting.session_counter:,}."
        )


def _outcomes(account: Account) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for column in ("in all", "stored", "duplicates", "conflicts", "refused"):
        table.add_column(column, justify="right", no_wrap=True)
    for what, outcomes in (
        ("queries, as sessions", account.sessions),
        ("events of these queries", account.known_events),
        ("events of refused queries", account.unregistered_events),
        ("events of unknown queries*", account.unknown_events),
    ):
        if outcomes is account.unregistered_events and not outcomes.total:
            continue
        counts = (outcomes.total, outcomes.inserted, outcomes.duplicates, outcomes.conflicts, outcomes.refused)
        table.add_row(what, *(f"{count:,}" for count in counts))
    table.caption = _EXPLAINED
    table.caption_justify = "left"
    return table


def _not_stored(account: Account) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("not stored")
    table.add_column("why")
    table.add_column("times", justify="right")
    table.add_column("where")
    for (what, reason), note in sorted(account.notes.items(), key=lambda item: item[1].lines):
        table.add_row(what, Text(shown(reason)), f"{note.count:,}", _lines(note))
    return table


def _lines(note: Note) -> str:
    lines = ", ".join(str(line) for line in sorted(note.lines))
    more = " …" if note.count > len(note.lines) else ""
    return f"line{'s' if note.count > 1 else ''} {lines}{more}"


class ReplayProgress:
    """The progress bar of a replay; see `replay_progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bytes = 0
        self._bytes_shown = 0
        self._reading: TaskID | None = None
        self._sessions: TaskID | None = None
        self._events: TaskID | None = None

    def reading(self, total_bytes: int | None) -> None:
        self._reading = self._progress.add_task("reading (bytes)", total=total_bytes)

    def read(self, count: int) -> None:
        """So many more bytes were read. Shown now and then only: there may be a million lines."""
        self._bytes += count
        if self._reading is not None and self._bytes - self._bytes_shown >= _READ_STEP_BYTES:
            self._bytes_shown = self._bytes
            self._progress.update(self._reading, completed=self._bytes)

    def sending(self, account: Account) -> None:
        if self._reading is not None:
            self._progress.remove_task(self._reading)
        self._sessions = self._progress.add_task("sessions", total=account.queries)
        self._events = self._progress.add_task("events", total=account.event_rows)

    def sent(self, account: Account) -> None:
        if self._sessions is not None and self._events is not None:
            self._progress.update(self._sessions, completed=account.sessions.total)
            self._progress.update(self._events, completed=account.events_sent)


@contextmanager
def replay_progress() -> Iterator[ReplayProgress]:
    """A progress bar on standard error if that is a terminal; it is gone at the end."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ReplayProgress(progress)
