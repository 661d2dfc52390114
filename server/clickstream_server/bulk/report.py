"""What an import did, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

from rich import console as rich_console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clickstream.models import SessionBatch
from clickstream.transfer import OutcomeCounts
from clickstream_server.bulk.account import FileAccount, LogAccount, Note, disagreements, stray_events
from clickstream_server.bulk.refusals import name_of, on_standard_output
from clickstream_server.console import Console

_EXPLAINED = (
    "duplicates: stored before with the same content, or twice in the log\n"
    "conflicts: stored before with other content, which stays\n"
    "* of queries that are not in this file; they are stored all the same"
)

_TABLE_WIDTH = 80
_JOINERS = "\u200c\u200d"
"""Between letters, as in Persian, and between the parts of an emoji."""


def shown(text: str) -> str:
    """Text of a file, safe to print: a terminal would obey control characters."""
    return "".join(char if char.isprintable() or _belongs(char) else "�" for char in text)


def _belongs(char: str) -> bool:
    """Whether text has this character, though Python does not call it printable: spaces of any kind, and joiners."""
    return category(char) == "Zs" or char in _JOINERS


def report_console(*, stderr: bool = False) -> rich_console.Console:
    """A console whose lines are as long as they are, for the terminal to wrap, and files to keep.

    Tables get 80 columns at least: their numbers are there to be read, and in fewer they would be cut.
    """
    kind = rich_console.Console if stderr else Console
    return kind(stderr=stderr, highlight=False, soft_wrap=True, width=max(kind(stderr=stderr).width, _TABLE_WIDTH))


def print_import(
    accounts: Sequence[FileAccount], *, dry_run: bool, errors: str | None, collecting: SessionBatch | None
) -> None:
    """Print the account of each file, where the refused rows are, and which batch collects.

    On standard error where standard output has the refused rows, which a pipe takes.
    """
    console = report_console(stderr=on_standard_output(errors))
    for account in accounts:
        print_account(console, account, dry_run=dry_run)
    refused = sum(account.not_stored for account in accounts)
    if refused:
        rows = "1 row was refused" if refused == 1 else f"{refused:,} rows were refused"
        where = f": see {shown(name_of(errors))}" if errors is not None else "; import --errors FILE keeps them"
        console.print(Text(f"{rows}, in whole or in part{where}, ready to be mended."))
    if dry_run:
        console.print("A dry run: nothing was written.")
        if any(account.connections > 1 for account in accounts):
            console.print(
                "The connection was lost meanwhile, and what came before that is forgotten: what comes twice in the "
                "file may be told as stored twice."
            )
        if len(accounts) > 1:
            console.print("Each file is told as if it came alone: what is in several of them counts in each.")
    if collecting is not None:
        counter = f"{collecting.session_counter:,}"
        console.print(f"Batch {collecting.batch_id} collects now; its numbers so far: 1 to {counter}.")


def print_account(console: rich_console.Console, account: FileAccount, *, dry_run: bool = False) -> None:
    """Print every count and what was not stored and why; of a log also what it holds and whether the sums agree."""
    log = account.log
    console.print(Text(f"\n{'Trial' if dry_run else 'Import'} of {shown(account.name)}", style="bold"))
    if log is not None:
        _print_log(console, log)
    console.print(Padding(_counts(account, dry_run=dry_run), (1, 0), expand=False))
    if account.complete and not (account.sessions.total or account.events.total or account.refused):
        console.print("There was nothing in it to import.\n")
    if account.notes:
        console.print(Padding(_not_stored(account), (0, 0, 1, 0), expand=False))
    if log is not None:
        _print_agreement(console, account, log)


def _print_log(console: rich_console.Console, log: LogAccount) -> None:
    lines = log.counts
    console.print(
        f"{lines.lines:,} lines = {log.query_rows:,} rows of queries + {log.event_rows:,} rows of events "
        f"+ {lines.actions:,} action lines + {lines.blank:,} blank + {log.refused_rows:,} refused"
    )
    console.print(
        f"{log.query_rows:,} rows of queries = {log.queries:,} queries "
        f"+ {log.query_rows - log.queries:,} more of the same queries"
    )


def _print_agreement(console: rich_console.Console, account: FileAccount, log: LogAccount) -> None:
    if log.rows_left_out.count:
        console.print(
            f"{log.rows_left_out.count:,} further rows of queries found no room in search_meta beside the others; "
            f"further_rows_left_out in it says how many. These queries start in {_lines(log.rows_left_out)}.\n"
        )
    if not account.complete:
        return
    wrong = disagreements(account, log)
    for disagreement in wrong:
        console.print(f"The sums do not agree, a fault of this program. {disagreement}", style="bold red")
    if not wrong:
        console.print("Every line is accounted for.")


def _counts(account: FileAccount, *, dry_run: bool) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for column in ("in all", "would be stored" if dry_run else "stored", "duplicates", "conflicts", "refused"):
        table.add_column(column, justify="right", no_wrap=True)
    for what, counts, unsent in _rows_of_counts(account):
        numbers = (counts.total + unsent, counts.inserted, counts.duplicates, counts.conflicts)
        table.add_row(what, *(f"{number:,}" for number in numbers), f"{counts.rejected + unsent:,}")
    if account.log is not None:
        table.caption = _EXPLAINED
        table.caption_justify = "left"
    elif account.refused:
        table.add_row("rows not sent", f"{account.refused:,}", "", "", "", f"{account.refused:,}")
    return table


def _rows_of_counts(account: FileAccount) -> list[tuple[str, OutcomeCounts, int]]:
    """What there was, what the server said to it, and how many were refused before they were sent."""
    log = account.log
    if log is None:
        return [("sessions", account.sessions, 0), ("events", account.events, 0)]
    return [
        ("queries, as sessions", account.sessions, log.refused_queries),
        ("events of these queries", log.events_of_queries, log.refused_events),
        ("events of unknown queries*", stray_events(account, log), log.refused_strays),
    ]


def _not_stored(account: FileAccount) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    if account.log is not None:
        table.add_column("refused")
    table.add_column("because" if account.log is not None else "refused because")
    table.add_column("times", justify="right")
    table.add_column("where")
    for (what, reason), note in sorted(account.notes.items(), key=lambda item: item[1].lines):
        kind = [what] if account.log is not None else []
        table.add_row(*kind, Text(shown(reason)), f"{note.count:,}", _lines(note))
    return table


def _lines(note: Note) -> str:
    lines = ", ".join(str(line) for line in sorted(note.lines))
    more = " …" if note.count > len(note.lines) else ""
    return f"line{'s' if note.count > 1 else ''} {lines}{more}"
