"""The progress bar of a bulk transfer: rate, share and time left, on standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from clickstream_server.bulk.report import FileAccount
from clickstream_server.replay.report import shown


class BulkProgress:
    """One bar, for one file after the other; see `bulk_progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._started = 0.0
        self._bytes = 0

    def start(self, name: str, total_bytes: int | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(shown(name)[-40:], total=total_bytes, rate="")
        self._started, self._bytes = monotonic(), 0

    def read(self, count: int) -> None:
        """So many more bytes were read."""
        self._bytes += count

    def advanced(self, account: FileAccount) -> None:
        """So much was acknowledged by now."""
        self.counted(account.sessions.total)

    def counted(self, sessions: int) -> None:
        if self._task is not None:
            rate = sessions / max(monotonic() - self._started, 0.001)
            text = f"{sessions:,} sessions, {rate:,.0f} a second"
            self._progress.update(self._task, completed=self._bytes, rate=text)


@contextmanager
def bulk_progress() -> Iterator[BulkProgress]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield BulkProgress(progress)
