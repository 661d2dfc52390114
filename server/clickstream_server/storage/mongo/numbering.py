"""What comes of a group of calls: which sessions get which numbers, what is written, each call's result. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from clickstream.errors import ClickstreamError, SessionNotFound
from clickstream.models import WriteOutcome
from clickstream_server.storage.mongo import documents
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of
from clickstream_server.storage.mongo.gatherer import PendingCall


class Intent(Enum):
    """What a call wants for a session that is known: leave it, replace it, or replace it if it differs.

    A session that is not known is stored, except for UPDATE.
    """

    REGISTER = "register"
    UPDATE = "update"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What came of a call. `stored`: the document under its id, None if there is none."""

    stored: Document | None
    outcome: WriteOutcome
    event_outcomes: tuple[WriteOutcome, ...] = ()


@dataclass(slots=True, eq=False)
class SessionWrite(PendingCall[WriteResult]):
    """One call that writes a session, and waits for its number. `events` stand or fall with it.

    `document`: the session's, without its place in a batch (see `from_pb.py`).
    """

    document: Document
    intent: Intent
    events: Sequence[Document] = ()


class Plan:
    """What comes of a group, decided one call after the other, as if each came when the one before was done.

    `sessions` and `events` are what is to be written, `used` is how many numbers that takes; `number` says which.
    `met_known`: some of what the group is about was stored before.
    """

    def __init__(
        self, stored: dict[str, Document], stored_events: dict[EventKey, Document], *, collecting: str, now: int
    ) -> None:
        self.sessions: dict[str, Document] = {}
        self.events: dict[EventKey, Document] = {}
        self.met_known = bool(stored or stored_events)
        self._current = dict(stored)
        self._current_events = dict(stored_events)
        self._collecting = collecting
        self._now = now
        self._numbered: list[Document] = []
        self._results: list[tuple[Document | None, WriteOutcome, tuple[WriteOutcome, ...]] | ClickstreamError] = []

    @property
    def used(self) -> int:
        return len(self._numbered)

    def decide(self, call: SessionWrite) -> None:
        """Add the call to the plan."""
        session_id = call.document["_id"]
        known = self._current.get(session_id)
        if known is None and call.intent is Intent.UPDATE:
            self._results.append(SessionNotFound.by_id(session_id))
            return
        kept = None if known is None else _kept_as(call, known, self._collecting)
        events, new = self._decide_events(call)
        if call.events and WriteOutcome.CONFLICT in (kept, *events):
            self._results.append((known, *_refused(kept, events)))
            return
        if kept is None:
            known = self._take_number(call)
        self.events |= new
        self._current_events |= new
        self._results.append((known, kept or WriteOutcome.INSERTED, events))

    def _decide_events(self, call: SessionWrite) -> tuple[tuple[WriteOutcome, ...], dict[EventKey, Document]]:
        """The outcome of each event, decided one after the other, and those to be written if the call stands."""
        new: dict[EventKey, Document] = {}
        outcomes = []
        for event in call.events:
            key = event_key_of(event)
            known = new.get(key) or self._current_events.get(key)
            outcomes.append(event_outcome(event, known, replace=call.intent is Intent.REPLACE))
            if outcomes[-1] is WriteOutcome.INSERTED:
                new[key] = event
        return tuple(outcomes), new

    def _take_number(self, call: SessionWrite) -> Document:
        """The call's document, with its place among those that take numbers for a number."""
        document: Document = {"created_at": self._now} | call.document
        self._numbered.append(document)
        document |= {"batch_id": self._collecting, "session_number": self.used, "registered_at": self._now}
        self.sessions[document["_id"]] = self._current[document["_id"]] = document
        return document

    def number(self, batch_id: str, first_number: int) -> None:
        """Give out the numbers from this one on. To be called once, before the results are read."""
        for number, document in enumerate(self._numbered, start=first_number):
            document |= {"batch_id": batch_id, "session_number": number}

    def results(self) -> list[WriteResult | ClickstreamError]:
        """Each call's, in their order."""
        return [found if isinstance(found, ClickstreamError) else WriteResult(*found) for found in self._results]


def plan(
    group: Iterable[SessionWrite],
    stored: dict[str, Document],
    stored_events: dict[EventKey, Document],
    *,
    collecting: str,
    now: int,
) -> Plan:
    """Decide each call in turn.

    `stored` and `stored_events` are what the database holds now, `collecting` is the batch that collects ("": none, or
    it does not matter, since all calls register).
    """
    made = Plan(stored, stored_events, collecting=collecting, now=now)
    for call in group:
        made.decide(call)
    return made


def event_outcome(event: Document, known: Document | None, *, replace: bool) -> WriteOutcome:
    """What becomes of an event, given what is stored under its key."""
    if known is None:
        return WriteOutcome.INSERTED
    if documents.same_event_content(known, event["content_hash"]):
        return WriteOutcome.DUPLICATE
    return WriteOutcome.INSERTED if replace else WriteOutcome.CONFLICT


def _kept_as(call: SessionWrite, known: Document, collecting: str) -> WriteOutcome | None:
    """The outcome if the known session stays as it is, or None if the call replaces it."""
    if call.intent is Intent.UPDATE and known["batch_id"] != collecting:
        return None  # it moves to the collecting batch in any case
    if documents.same_session_content(known, call.document["content_hash"]):
        return WriteOutcome.DUPLICATE
    return WriteOutcome.CONFLICT if call.intent is Intent.REGISTER else None


def _refused(
    kept: WriteOutcome | None, events: tuple[WriteOutcome, ...]
) -> tuple[WriteOutcome, tuple[WriteOutcome, ...]]:
    """The outcomes of a session that falls with its events: CONFLICT for what conflicts, REJECTED for the rest."""
    conflict, rejected = WriteOutcome.CONFLICT, WriteOutcome.REJECTED
    outcomes = tuple(conflict if outcome is conflict else rejected for outcome in (kept, *events))
    return outcomes[0], outcomes[1:]
