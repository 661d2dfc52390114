"""Bulk in and out: the interface beside ClickstreamDao, and its models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from clickstream.errors import ImportAborted, InvalidField
from clickstream.export import ExportFilter, ExportPage
from clickstream.models import ItemFailure, PushResult, Session, SessionEvent, WriteOutcome

FELL_WITH_SESSION = "FELL_WITH_SESSION"
"""The reason of what is valid, and fell with another part of its item in an import that is PER_SESSION."""
_JUDGED_FROM_ITEMS = 100


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Some events of a stream under the producer's number for them, which rises from batch to batch."""

    sequence: int
    events: Sequence[SessionEvent | InvalidField]


@dataclass(frozen=True, slots=True)
class EventAck:
    """Everything up to `acked_sequence` is durable; `result` is the account of the batch with that number."""

    acked_sequence: int
    result: PushResult


class ImportMode(StrEnum):
    """What to do with what is stored already with other content: keep it, or replace it."""

    SKIP_EXISTING = "SKIP_EXISTING"
    REPLACE_EXISTING = "REPLACE_EXISTING"


class ImportAtomicity(StrEnum):
    """Whether each session and event stands on its own, or a session with its events."""

    PER_ITEM = "PER_ITEM"
    PER_SESSION = "PER_SESSION"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """How to import. `max_failure_ratio`: stop past this share of failed items, judged from 100 items on."""

    import_id: str
    mode: ImportMode = ImportMode.SKIP_EXISTING
    atomicity: ImportAtomicity = ImportAtomicity.PER_ITEM
    max_failure_ratio: float = 0.1
    dry_run: bool = False

    def stops_at(self, failed: int, processed: int) -> bool:
        """Whether so many failed items, of so many processed, are too many."""
        # Divided, since 0.29 * 100 is less than 29.
        return processed >= _JUDGED_FROM_ITEMS and failed / processed > self.max_failure_ratio


@dataclass(frozen=True, slots=True)
class ImportItem:
    """A session with its events, or events alone. What could not be read stands as its error."""

    session: Session | InvalidField | None
    events: Sequence[SessionEvent | InvalidField] = ()


@dataclass(frozen=True, slots=True)
class ImportChunk:
    """Some items under the caller's number for them, which rises from chunk to chunk."""

    sequence: int
    items: Sequence[ImportItem]


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """How many things came to which outcome."""

    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[WriteOutcome]) -> Self:
        """Count them."""
        counts = Counter(outcomes)
        return cls(
            counts[WriteOutcome.INSERTED],
            counts[WriteOutcome.DUPLICATE],
            counts[WriteOutcome.CONFLICT],
            counts[WriteOutcome.REJECTED],
        )

    def plus(self, other: OutcomeCounts) -> OutcomeCounts:
        """Both as one."""
        return OutcomeCounts(
            self.inserted + other.inserted,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.rejected + other.rejected,
        )

    @property
    def total(self) -> int:
        """How many there were."""
        return self.inserted + self.duplicates + self.conflicts + self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportProgress:
    """Everything up to `acked_sequence` is durable; the counts are those of the stream so far.

    `failures`: of this chunk; an index is an item's place in the stream.
    """

    acked_sequence: int
    processed: int
    sessions: OutcomeCounts
    events: OutcomeCounts
    failures: tuple[ItemFailure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """The account of a whole import. `aborted`: it was stopped past the failure ratio.

    `connections`: how many brought answers. With more than one, a dry run has not told what came twice over two.
    """

    processed: int = 0
    sessions: OutcomeCounts = OutcomeCounts()
    events: OutcomeCounts = OutcomeCounts()
    elapsed_s: float = 0.0
    aborted: bool = False
    connections: int = 1


def too_many_failed(failed: int, processed: int, ratio: float) -> ImportAborted:
    """What an import raises past its failure ratio."""
    return ImportAborted(
        f"the import was stopped: {failed} of {processed} items failed, more than the allowed {ratio * 100:g}%; what "
        "was acknowledged stays"
    )


NO_SEQUENCE = -1
"""What a stream's first sequence must be larger than."""


def rising(sequence: int, last: int) -> int:
    """The sequence, if it is larger than the last one (or NO_SEQUENCE). Raises InvalidField."""
    if sequence < 0:
        raise InvalidField.at("sequence", f"must not be negative, and is {sequence}")
    if sequence <= last:
        raise InvalidField.at("sequence", f"must be larger than {last}, the one before, not {sequence}")
    return sequence


class TransferDao(ABC):
    """Bulk transfer. Errors and promises are those of ClickstreamDao."""

    @abstractmethod
    def stream_events(self, batches: AsyncIterable[EventBatch]) -> AsyncGenerator[EventAck, None]:
        """Store batches of events as they come; yield one acknowledgement for each, in order, once it is durable.

        Reads ahead within bounds and waits when the storage is slower than the producer. Raises InvalidField if a
        sequence does not rise or a batch is too large; an invalid event is counted, and ends nothing.
        """

    @abstractmethod
    def import_sessions(
        self, config: ImportConfig, chunks: AsyncIterable[ImportChunk]
    ) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        """Import chunks as they come; yield progress for each, in order, once it is durable, and a summary at the end.

        Repeating an import is safe. Raises ImportAborted, after the summary, past the failure ratio, and InvalidField
        if the config is invalid, a sequence does not rise or a chunk is too large.
        """

    @abstractmethod
    def export_sessions(
        self,
        chosen: ExportFilter,
        *,
        events_limit: int | None = None,
        limit: int = 0,
        resume_token: str = "",
    ) -> AsyncGenerator[ExportPage, None]:
        """Export sessions with their events, in a fixed order; the last page has the trailer.

        Going on with a page's `resume_token`, the same filter and the same `events_limit` loses nothing and repeats
        nothing. Raises BatchNotFound, and MessageTooLarge if one session has more events than can be carried at once.
        """
