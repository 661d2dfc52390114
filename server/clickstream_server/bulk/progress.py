"""The progress bar of a bulk transfer: share, rate and time left, on standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from clickstream_server.bulk.report import shown

_NAME_SHOWN = 20
_BAR_WIDTH = 16


class BulkProgress:
    """One bar, for one file after the other; see `bulk_progress`. Made without one, it shows nothing."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Progress(disable=True)
        self._task: TaskID | None = None
        self._reading = False
        self._started = 0.0
        self._before = 0

    def start(self, name: str, total: int | None, *, reading: bool = False, before: int = 0) -> None:
        """Begin anew. `total`: in the units of `reached`; None if nobody knows. `reading`: nothing is sent as yet.

        `before`: how many sessions were there already, which are not of this rate.
        """
        if self._task is not None:
            self._progress.remove_task(self._task)
        says = "reading" if reading else ""
        self._task = self._progress.add_task(shown(Path(name).name)[-_NAME_SHOWN:], total=total, says=says)
        self._reading, self._started, self._before = reading, monotonic(), before

    def read(self, count: int) -> None:
        """So many bytes were read. It is shown while nothing else is done."""
        if self._reading and self._task is not None:
            self._progress.update(self._task, completed=count)

    def reached(self, place: int, sessions: int) -> None:
        """It got so far, with so many sessions."""
        if self._task is not None:
            rate = (sessions - self._before) / max(monotonic() - self._started, 0.001)
            self._progress.update(self._task, completed=place, says=f"{sessions:,} sessions, {rate:,.0f}/s")


class _Share(TaskProgressColumn):
    """The share that is done; nothing where nobody knows how much there is."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


@contextmanager
def bulk_progress(*, wanted: bool = True) -> Iterator[BulkProgress]:
    """A bar until the end of the context. `wanted`: there is room for it on the terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_WIDTH),
        _Share(),
        TextColumn("{task.fields[says]}", markup=False),
        TimeRemainingColumn(),
    )
    hidden = not (wanted and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield BulkProgress(progress)
