"""The items of an import on their way: what is to be stored of each, what became of it, and the account of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clickstream.errors import InvalidField
from clickstream.models import ItemFailure, WriteOutcome
from clickstream.transfer import FELL_WITH_SESSION, ImportProgress, OutcomeCounts
from clickstream_server.storage.mongo.numbering import SessionWrite, WriteResult
from clickstream_server.storage.mongo.prepared_events import CONTENT_CONFLICT, ID_SHOWN_MAX, PreparedEvents

_FAILED = (WriteOutcome.CONFLICT, WriteOutcome.REJECTED)
_WHY = {
    WriteOutcome.CONFLICT: "one of the same id is stored with other content, which stays",
    WriteOutcome.REJECTED: "fell with its session or another of its events, since the import is PER_SESSION",
}
_REASON = {WriteOutcome.CONFLICT: CONTENT_CONFLICT, WriteOutcome.REJECTED: FELL_WITH_SESSION}
"""Of what is valid in itself."""


@dataclass(slots=True)
class Item:
    """An item on its way: what is to be stored, what is invalid, and in the end what became of each part."""

    session_id: str
    session: SessionWrite | None
    session_fault: InvalidField | None
    events: PreparedEvents
    session_outcome: WriteOutcome | None = None
    event_outcomes: Sequence[WriteOutcome] = ()

    @property
    def size(self) -> int:
        """About how many bytes there are to be stored."""
        return self.events.size + (0 if self.session is None else self.session.content_bytes)

    @property
    def invalid(self) -> bool:
        return self.session_fault is not None or bool(self.events.rejected)

    def refuse(self) -> None:
        """One part is invalid, and all fall with it."""
        if self.session is not None or self.session_fault is not None:
            self.session_outcome = WriteOutcome.REJECTED
        self.event_outcomes = [WriteOutcome.REJECTED] * len(self.events.documents)

    def settle(self, numbered: WriteResult) -> None:
        """Take what the registrar says of the session and of the events that stood with it."""
        self.session_outcome = numbered.outcome
        if numbered.event_outcomes:
            self.event_outcomes = numbered.event_outcomes

    def all_event_outcomes(self) -> list[WriteOutcome]:
        return [*self.event_outcomes, *(failure.outcome for failure in self.events.rejected)]

    def failures(self, index: int) -> list[ItemFailure]:
        """Everything that was not stored, as failures of the item at this place of the stream."""
        found = []
        if self.session_fault is not None:
            found.append(_failure(index, self.session_id, WriteOutcome.REJECTED, self.session_fault.message))
        elif self.session_outcome in _FAILED:
            found.append(_fallen(index, self.session_id, self.session_outcome, "session"))
        for rejected, fault in zip(self.events.rejected, self.events.faults, strict=True):
            found.append(_failure(index, rejected.id, WriteOutcome.REJECTED, fault.message))
        for place, document, outcome in zip(
            self.events.places, self.events.documents, self.event_outcomes, strict=True
        ):
            if outcome in _FAILED:
                event_id = document["_id"]["event_id"]
                found.append(_fallen(index, event_id, outcome, f"events[{place}]"))
        return found


def _failure(
    index: int, failed_id: str, outcome: WriteOutcome, message: str, *, reason: str = InvalidField.reason
) -> ItemFailure:
    return ItemFailure(index=index, id=failed_id[:ID_SHOWN_MAX], outcome=outcome, reason=reason, message=message)


def _fallen(index: int, failed_id: str, outcome: WriteOutcome, place: str) -> ItemFailure:
    """The failure of a part that is valid in itself."""
    return _failure(index, failed_id, outcome, f"{place}: {_WHY[outcome]}", reason=_REASON[outcome])


@dataclass(slots=True)
class Chunk:
    """A chunk that was read. `weight`: its sessions and events; `size`: about how many bytes they have.

    `sessions` and `events` are what became of them, once they are stored.
    """

    sequence: int
    items: list[Item]
    weight: int
    size: int
    sessions: OutcomeCounts = field(default_factory=OutcomeCounts)
    events: OutcomeCounts = field(default_factory=OutcomeCounts)

    def count(self) -> None:
        """Take the account of its items."""
        self.sessions = OutcomeCounts.of(
            item.session_outcome for item in self.items if item.session_outcome is not None
        )
        self.events = OutcomeCounts.of(outcome for item in self.items for outcome in item.all_event_outcomes())

    @property
    def stored_whole(self) -> bool:
        """Whether all of it is stored, and none of its items has a failure to tell."""
        told = (self.sessions, self.events)
        return not any(counts.conflicts or counts.rejected for counts in told)


@dataclass(slots=True)
class Tally:
    """The account of the stream so far."""

    processed: int = 0
    failed: int = 0
    sessions: OutcomeCounts = field(default_factory=OutcomeCounts)
    events: OutcomeCounts = field(default_factory=OutcomeCounts)

    def add(self, chunk: Chunk) -> ImportProgress:
        """Take what became of the next chunk into the account; return what is told of it."""
        failures: list[ItemFailure] = []
        for place, item in enumerate(() if chunk.stored_whole else chunk.items, start=self.processed):
            found = item.failures(place)
            self.failed += bool(found)
            failures.extend(found)
        self.processed += len(chunk.items)
        self.sessions = self.sessions.plus(chunk.sessions)
        self.events = self.events.plus(chunk.events)
        return ImportProgress(
            acked_sequence=chunk.sequence,
            processed=self.processed,
            sessions=self.sessions,
            events=self.events,
            failures=tuple(failures),
        )
