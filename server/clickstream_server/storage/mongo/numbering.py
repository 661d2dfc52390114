"""What a group of calls comes to: which sessions get which numbers, what is written, what each call is told. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from clickstream.errors import ClickstreamError, SessionNotFound
from clickstream.models import RegisteredSession, Session, WriteOutcome
from clickstream.values import micros_from_datetime
from clickstream_server.storage.mongo import documents
from clickstream_server.storage.mongo.documents import Document, EventKey, event_key_of


class Intent(Enum):
    """What a call wants for a session that is known: leave it, replace it, or replace it if it differs.

    A session that is not known is stored, except for UPDATE.
    """

    REGISTER = "register"
    UPDATE = "update"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Numbered:
    """What a call came to. `session`: what is stored under its id, None if nothing is."""

    session: RegisteredSession | None
    outcome: WriteOutcome
    event_outcomes: tuple[WriteOutcome, ...] = ()


@dataclass(slots=True, eq=False)
class Numbering:
    """One call that waits for a number. `events` stand or fall with it."""

    session: Session
    content_hash: bytes
    content_bytes: int
    intent: Intent
    events: Sequence[Document] = ()
    done: asyncio.Future[Numbered] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class Plan:
    """What a group comes to: the documents to write, how many numbers they use, and each call's result."""

    sessions: dict[str, Document] = field(default_factory=dict)
    events: dict[EventKey, Document] = field(default_factory=dict)
    used: int = 0
    results: list[Numbered | ClickstreamError] = field(default_factory=list)


def numbers_wanted(group: Iterable[Numbering], known_ids: Iterable[str]) -> int:
    """How many numbers the group may need at most: one for each new session and each that may be replaced."""
    known = set(known_ids)
    wanted = 0
    for call in group:
        session_id = call.session.session_id
        if call.intent is Intent.REPLACE or (call.intent is Intent.UPDATE) == (session_id in known):
            wanted += 1
        if call.intent is not Intent.UPDATE:
            known.add(session_id)
    return wanted


class Planner:
    """Decides one call after the other, as if each came when the one before was done."""

    def __init__(
        self,
        stored: dict[str, Document],
        stored_events: dict[EventKey, Document],
        *,
        batch_id: str,
        first_number: int,
        now: int,
    ) -> None:
        self._current = dict(stored)
        self._current_events = dict(stored_events)
        self._batch_id = batch_id
        self._first_number = first_number
        self._now = now
        self.plan = Plan()

    def decide(self, call: Numbering) -> None:
        """Add the call to the plan."""
        session_id = call.session.session_id
        known = self._current.get(session_id)
        if known is None and call.intent is Intent.UPDATE:
            self.plan.results.append(SessionNotFound.by_id(session_id))
            return
        kept = None if known is None else _kept_as(call, known, self._batch_id)
        events = [
            event_outcome(event, self._current_events.get(event_key_of(event)), replace=call.intent is Intent.REPLACE)
            for event in call.events
        ]
        if call.events and WriteOutcome.CONFLICT in (kept, *events):
            self.plan.results.append(_refused(known, kept, events))
            return
        if kept is None:
            known = self._number(call)
        for event, outcome in zip(call.events, events, strict=True):
            if outcome is WriteOutcome.INSERTED:
                self.plan.events[event_key_of(event)] = self._current_events[event_key_of(event)] = event
        assert known is not None
        registered = documents.registered_from_document(known)
        self.plan.results.append(Numbered(registered, kept or WriteOutcome.INSERTED, tuple(events)))

    def _number(self, call: Numbering) -> Document:
        created_at = call.session.created_at
        document = documents.session_to_document(
            call.session,
            content_hash=call.content_hash,
            created_at=self._now if created_at is None else micros_from_datetime(created_at),
        )
        document["batch_id"] = self._batch_id
        document["session_number"] = self._first_number + self.plan.used
        document["registered_at"] = self._now
        self.plan.used += 1
        self.plan.sessions[call.session.session_id] = self._current[call.session.session_id] = document
        return document


def plan(
    group: Iterable[Numbering],
    stored: dict[str, Document],
    stored_events: dict[EventKey, Document],
    *,
    batch_id: str,
    first_number: int,
    now: int,
) -> Plan:
    """Decide each call in turn. `stored` and `stored_events` are what the database holds now."""
    planner = Planner(stored, stored_events, batch_id=batch_id, first_number=first_number, now=now)
    for call in group:
        planner.decide(call)
    return planner.plan


def event_outcome(event: Document, known: Document | None, *, replace: bool) -> WriteOutcome:
    """What becomes of an event, given what is stored under its key."""
    if known is None:
        return WriteOutcome.INSERTED
    if documents.same_event_content(known, event["content_hash"]):
        return WriteOutcome.DUPLICATE
    return WriteOutcome.INSERTED if replace else WriteOutcome.CONFLICT


def _kept_as(call: Numbering, known: Document, batch_id: str) -> WriteOutcome | None:
    """The outcome if the known session stays as it is, or None if the call replaces it."""
    if call.intent is Intent.UPDATE and known["batch_id"] != batch_id:
        return None  # it moves to the collecting batch in any case
    if documents.same_session_content(known, call.content_hash):
        return WriteOutcome.DUPLICATE
    return WriteOutcome.CONFLICT if call.intent is Intent.REGISTER else None


def _refused(known: Document | None, kept: WriteOutcome | None, events: list[WriteOutcome]) -> Numbered:
    """A session that falls with its events: what conflicts is told as that, the rest as rejected."""
    conflict, rejected = WriteOutcome.CONFLICT, WriteOutcome.REJECTED
    return Numbered(
        None if known is None else documents.registered_from_document(known),
        conflict if kept is conflict else rejected,
        tuple(conflict if outcome is conflict else rejected for outcome in events),
    )
