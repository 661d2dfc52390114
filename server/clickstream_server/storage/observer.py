"""What the storage tells of its work. Who counts or traces that is none of its business."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

from clickstream.models import WriteOutcome
from clickstream_server.call_record import CallRecord

Kind = Literal["session", "event"]
Way = Literal["register", "update", "push", "stream", "import"]
Gathered = Literal["register", "push", "get"]
"""What calls that share their work are for."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that MongoDB has answered, or not. `error`: its code, or the driver's name of it; empty: none.

    It never holds what was asked for, which is personal data: the collection is all that there is of that.
    """

    name: str
    database: str
    collection: str
    server: str
    duration_s: float
    error: str = ""


class Counts(Protocol):
    """An account of what was written, by outcome."""

    @property
    def inserted(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def conflicts(self) -> int: ...
    @property
    def rejected(self) -> int: ...


class StorageObserver:
    """Is told of all that follows; this one does nothing with it. Methods return at once and never raise.

    Those about commands and connections are called by any thread.
    """

    def group(self, work: Gathered, calls: Sequence[CallRecord | None]) -> AbstractContextManager[None]:
        """Around the work of a group: one record for each call in it. Left by an exception if it fails."""
        del work, calls
        return nullcontext()

    def transaction_again(self) -> None:
        """A transaction is started again, because another writer came first."""

    def stored(self, kind: Kind, way: Way, outcome: WriteOutcome, count: int) -> None:
        """So many sessions or events came to this outcome."""

    def command(self, command: Command) -> None:
        """MongoDB has answered a command, or did not."""

    def connections(self, server: str, change: int) -> None:
        """A connection was made (1) or closed (-1)."""

    def checkout_waits(self, server: str) -> None:
        """A step asks for a connection. `checkout_done` follows, or `checkout_failed`."""

    def checkout_done(self, server: str, duration_s: float) -> None:
        """It has one, after so long."""

    def checkout_failed(self, server: str, reason: str) -> None:
        """It got none."""

    def checked_in(self, server: str) -> None:
        """It gave its connection back."""

    def stored_all(self, kind: Kind, way: Way, counts: Counts) -> None:
        """As `stored`, for a whole account."""
        for outcome, count in (
            (WriteOutcome.INSERTED, counts.inserted),
            (WriteOutcome.DUPLICATE, counts.duplicates),
            (WriteOutcome.CONFLICT, counts.conflicts),
            (WriteOutcome.REJECTED, counts.rejected),
        ):
            if count:
                self.stored(kind, way, outcome, count)


NOBODY = StorageObserver()
