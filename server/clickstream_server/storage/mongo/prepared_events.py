"""The events of a request on their way into the storage: which are to be stored, which are invalid, and the account."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from clickstream.errors import InvalidField
from clickstream.models import ItemFailure, PushResult, WriteOutcome
from clickstream_server.clock import now_micros
from clickstream_server.limits import Limits
from clickstream_server.message_dao import SentEvents
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.from_pb import event_document

CONTENT_CONFLICT = "CONTENT_CONFLICT"
ID_SHOWN_MAX = 256
"""An id that was refused for its length is not sent back whole."""
_TURN_S = 0.01
"""So long the events of one request are prepared before others have their turn: 8 MiB of them may take seconds."""


@dataclass(slots=True)
class PreparedEvents:
    """The events of one request: those to be stored, each at its place, and those that are invalid."""

    documents: list[Document] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    rejected: list[ItemFailure] = field(default_factory=list)
    faults: list[InvalidField] = field(default_factory=list)
    size: int = 0
    """About how many bytes the documents take."""

    def reject(self, place: int, event_id: str, error: InvalidField) -> None:
        """Leave this event out."""
        self.faults.append(error.under(f"events[{place}]"))
        self.rejected.append(
            ItemFailure(
                index=place,
                id=event_id[:ID_SHOWN_MAX],
                outcome=WriteOutcome.REJECTED,
                reason=InvalidField.reason,
                message=error.message,
            )
        )

    def result(self, outcomes: Sequence[WriteOutcome]) -> PushResult:
        """The account of the request, once the outcome of each document is known."""
        counts = Counter(outcomes)
        conflicts = []
        if counts[WriteOutcome.CONFLICT]:
            conflicts = [
                _conflict(place, document)
                for place, document, outcome in zip(self.places, self.documents, outcomes, strict=True)
                if outcome is WriteOutcome.CONFLICT
            ]
        return PushResult(
            inserted=counts[WriteOutcome.INSERTED],
            duplicates=counts[WriteOutcome.DUPLICATE],
            conflicts=len(conflicts),
            rejected=len(self.rejected),
            failures=tuple(sorted([*self.rejected, *conflicts], key=lambda failure: failure.index)),
        )


async def prepare_call(events: SentEvents, limits: Limits) -> PreparedEvents:
    """As `prepare`; at least one of them is valid. Raises InvalidField if none is."""
    if not events:
        raise InvalidField.at("events", "must not be empty")
    prepared = await prepare(events, limits)
    if not prepared.documents:
        raise InvalidField.of(violation for fault in prepared.faults for violation in fault.violations)
    return prepared


async def prepare(events: SentEvents, limits: Limits, *, item_session_id: str = "") -> PreparedEvents:
    """Check each event and make its document. Raises InvalidField if there are too many.

    `item_session_id`: see `event_document`.
    """
    if len(events) > limits.events_per_call_max:
        raise InvalidField.at("events", f"must be {limits.events_per_call_max} at most, not {len(events)}")
    now = now_micros()
    prepared = PreparedEvents()
    turn_ends = monotonic() + _TURN_S
    for place, event in enumerate(events):
        if monotonic() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = monotonic() + _TURN_S
        if isinstance(event, InvalidField):  # not raised: its traceback would hold what it stands in
            prepared.reject(place, event.item_id, event)
            continue
        try:
            document, size = event_document(event, now_micros=now, limits=limits, item_session_id=item_session_id)
            prepared.documents.append(document)
            prepared.places.append(place)
            prepared.size += size
        except InvalidField as error:
            prepared.reject(place, event.event_id, error)
    return prepared


def _conflict(place: int, document: Document) -> ItemFailure:
    return ItemFailure(
        index=place,
        id=document["_id"]["event_id"],
        outcome=WriteOutcome.CONFLICT,
        reason=CONTENT_CONFLICT,
        message="this session has an event of the same id with other content; what is stored stays",
    )
