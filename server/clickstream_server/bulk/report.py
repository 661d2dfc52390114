"""What a bulk transfer did, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clickstream.transfer import OutcomeCounts
from clickstream_server.replay.account import Note, Notes
from clickstream_server.replay.report import shown


@dataclass(slots=True)
class FileAccount:
    """What became of one file. `refused`: rows that were not sent; `failed_rows`: those that the server refused, in
    whole or in part. `fault`: why it cannot be said that all of the file was there.
    """

    name: str
    lines: int = 0
    refused: int = 0
    failed_rows: int = 0
    sessions: OutcomeCounts = field(default_factory=OutcomeCounts)
    events: OutcomeCounts = field(default_factory=OutcomeCounts)
    elapsed_s: float = 0.0
    fault: str | None = None
    notes: Notes = field(default_factory=Notes)

    @property
    def not_stored(self) -> int:
        """Rows that were refused or are in conflict, in whole or in part."""
        return self.refused + self.failed_rows


def print_import(accounts: Sequence[FileAccount], *, dry_run: bool, errors: str | None) -> None:
    """Print the summary: a row of counts for the sessions and the events of each file, and what was refused."""
    console = Console(highlight=False)
    if not accounts:
        return
    for account in accounts:
        console.print(Text(f"\n{'Trial' if dry_run else 'Import'} of {shown(account.name)}", style="bold"))
        console.print(Padding(_counts(account, dry_run=dry_run), (1, 0), expand=False))
        _print_notes(console, account)
    refused = sum(account.not_stored for account in accounts)
    rows = "1 row was refused" if refused == 1 else f"{refused:,} rows were refused"
    if refused and errors is not None:
        console.print(Text(f"{rows}, in whole or in part: see {shown(errors)}, ready to be mended."))
    elif refused:
        console.print(f"{rows}, in whole or in part; --errors FILE keeps them, ready to be mended.")
    if dry_run:
        console.print("A dry run: nothing was written.")


def _counts(account: FileAccount, *, dry_run: bool) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for column in ("in all", "would be stored" if dry_run else "stored", "duplicates", "conflicts", "refused"):
        table.add_column(column, justify="right", no_wrap=True)
    for what, counts in (("sessions", account.sessions), ("events", account.events)):
        numbers = (counts.total, counts.inserted, counts.duplicates, counts.conflicts, counts.rejected)
        table.add_row(what, *(f"{number:,}" for number in numbers))
    if account.refused:
        table.add_row("rows not sent", f"{account.refused:,}", "", "", "", f"{account.refused:,}")
    return table


def _print_notes(console: Console, account: FileAccount) -> None:
    if not account.notes:
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("refused because")
    table.add_column("times", justify="right")
    table.add_column("where")
    for (_, reason), note in sorted(account.notes.items(), key=lambda item: item[1].lines):
        table.add_row(Text(shown(reason)), f"{note.count:,}", _lines(note))
    console.print(Padding(table, (0, 0, 1, 0), expand=False))


def _lines(note: Note) -> str:
    lines = ", ".join(str(line) for line in sorted(note.lines))
    more = " …" if note.count > len(note.lines) else ""
    return f"line{'s' if note.count > 1 else ''} {lines}{more}"
