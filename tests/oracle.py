"""A plain in-memory model of the contract: what the service should do, without anything that makes it fast or safe.

It keeps to what the contract says and shares only the models and the errors with the real thing. Ids of batches and
events and times that the server chooses are its own; whoever compares must look past them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from clickstream import (
    BatchAlreadyCollecting,
    BatchList,
    BatchNotFound,
    BatchRelease,
    BatchStatusMismatch,
    ClickstreamDao,
    FieldViolation,
    InvalidField,
    ItemFailure,
    NoCollectingBatch,
    PushResult,
    RegisteredSession,
    Registration,
    Session,
    SessionBatch,
    SessionBatchStatus,
    SessionEvent,
    SessionNotFound,
    SessionPage,
    SessionWithEvents,
    WriteOutcome,
)

COLLECTING = SessionBatchStatus.COLLECTING


def content(value: BaseModel) -> str:
    """What a session or an event says, so that equal text is equal content, whatever the order of keys."""
    return json.dumps(value.model_dump(mode="json"), sort_keys=True)


def require(**ids: str) -> None:
    """Raise InvalidField for each id that is blank."""
    refuse([FieldViolation(path, "must not be blank") for path, value in ids.items() if not value.strip()])


def refuse(violations: list[FieldViolation]) -> None:
    if violations:
        raise InvalidField.of(violations)


def require_not_negative(**numbers: int | None) -> None:
    refuse([FieldViolation(path, "must not be negative") for path, number in numbers.items() if (number or 0) < 0])


class OracleDao(ClickstreamDao):
    """The contract in memory. Not for use by several callers at once."""

    def __init__(self) -> None:
        self.sessions: dict[str, RegisteredSession] = {}
        self.sent: dict[str, str] = {}
        """The content of each session as it was sent."""
        self.events: dict[tuple[str, str], SessionEvent] = {}
        self.sent_events: dict[tuple[str, str], str] = {}
        self.batches: dict[str, SessionBatch] = {}
        self._ticks = 0

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def register_session(self, session: Session) -> Registration:
        self._check(session)
        known = self.sessions.get(session.session_id)
        if known is None:
            return Registration(session=self._number(session), outcome=WriteOutcome.INSERTED)
        outcome = WriteOutcome.DUPLICATE if self._same(session) else WriteOutcome.CONFLICT
        return Registration(session=known, outcome=outcome)

    async def update_session(self, session: Session) -> RegisteredSession:
        self._check(session)
        known = self.sessions.get(session.session_id)
        if known is None:
            raise SessionNotFound.by_id(session.session_id)
        if self.batches[known.batch_id].status is COLLECTING and self._same(session):
            return known
        return self._number(session)

    async def mark_session_irrelevant(self, session_id: str) -> RegisteredSession:
        require(session_id=session_id)
        known = self.sessions.get(session_id)
        if known is None:
            raise SessionNotFound.by_id(session_id)
        marked = known.model_copy(update={"session": known.session.model_copy(update={"is_irrelevant": True})})
        self.sessions[session_id] = marked
        return marked

    async def get_session(self, session_id: str, *, events_limit: int | None = 100) -> SessionWithEvents | None:
        require(session_id=session_id)
        require_not_negative(events_limit=events_limit)
        known = self.sessions.get(session_id)
        return None if known is None else self._with_events(known, events_limit)

    def _check(self, session: Session) -> None:
        require(**{"session.session_id": session.session_id})

    def _same(self, session: Session) -> bool:
        """Whether this is the stored session's content, as it was sent or as it reads now."""
        session_id = session.session_id
        return content(session) in {self.sent[session_id], content(self.sessions[session_id].session)}

    def _number(self, session: Session) -> RegisteredSession:
        """Store the session under the collecting batch's next number."""
        now = self._now()
        batch = self._collecting()
        if batch is None:
            batch = SessionBatch(
                batch_id=f"b{len(self.batches) + 1}",
                status=COLLECTING,
                session_counter=0,
                created_at=now,
                updated_at=now,
            )
        batch = batch.model_copy(update={"session_counter": batch.session_counter + 1, "updated_at": now})
        self.batches[batch.batch_id] = batch
        stored = session.model_copy(update={"created_at": session.created_at or now})
        self.sent[session.session_id] = content(session)
        self.sessions[session.session_id] = RegisteredSession(
            session=stored, batch_id=batch.batch_id, session_number=batch.session_counter, registered_at=now
        )
        return self.sessions[session.session_id]

    # --- events -----------------------------------------------------------------------------------------------------

    async def push_events(self, events: Sequence[SessionEvent | InvalidField]) -> PushResult:
        found = [self._fault(event) for event in events]
        if None not in found:
            raise InvalidField.at("events", "must hold a valid event")
        counts = dict.fromkeys(WriteOutcome, 0)
        failures = []
        now = self._now()  # one for the call: what has no time of its own is then in the order of its ids
        for index, (event, fault) in enumerate(zip(events, found, strict=True)):
            outcome, event_id = WriteOutcome.REJECTED, ""
            if isinstance(event, SessionEvent):
                event_id = event.event_id
                if not fault:
                    event_id = event.event_id or f"derived {content(event)}"
                    outcome = self._push(event, event_id, now)
            counts[outcome] += 1
            if outcome in {WriteOutcome.CONFLICT, WriteOutcome.REJECTED}:
                reason = "INVALID_FIELD" if outcome is WriteOutcome.REJECTED else "CONTENT_CONFLICT"
                failures.append(ItemFailure(index=index, id=event_id, outcome=outcome, reason=reason, message="no"))
        return PushResult(
            inserted=counts[WriteOutcome.INSERTED],
            duplicates=counts[WriteOutcome.DUPLICATE],
            conflicts=counts[WriteOutcome.CONFLICT],
            rejected=counts[WriteOutcome.REJECTED],
            failures=tuple(failures),
        )

    def _fault(self, event: SessionEvent | InvalidField) -> str | None:
        if isinstance(event, InvalidField):
            return "it could not be read"
        if not event.session_id.strip():
            return "it has no session"
        if event.event_type == "click" and not event.object_id:
            return "a click needs an object"
        if not event.event_id and event.created_at is None:
            return "without an id it needs a time"
        return None

    def _push(self, event: SessionEvent, event_id: str, now: datetime) -> WriteOutcome:
        key = event.session_id, event_id
        sent = content(event.model_copy(update={"event_id": ""}))
        if key not in self.events:
            self.events[key] = event.model_copy(update={"event_id": event_id, "created_at": event.created_at or now})
            self.sent_events[key] = sent
            return WriteOutcome.INSERTED
        as_it_reads = content(self.events[key].model_copy(update={"event_id": ""}))
        return WriteOutcome.DUPLICATE if sent in {self.sent_events[key], as_it_reads} else WriteOutcome.CONFLICT

    def _with_events(self, known: RegisteredSession, limit: int | None) -> SessionWithEvents:
        events = [event for (session_id, _), event in self.events.items() if session_id == known.session.session_id]
        events.sort(key=lambda event: (event.created_at, event.event_id))
        return SessionWithEvents(**dict(known), events=tuple(events[:limit]), event_count=len(events))

    # --- batches ----------------------------------------------------------------------------------------------------

    async def get_batch_pages(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> AsyncGenerator[SessionPage, None]:
        """One page with all that there is now. On a batch that collects, following would never end: it is left out."""
        require_not_negative(after_number=after_number, limit=limit, events_limit=events_limit)
        require(batch_id=batch_id)
        batch = self.batches.get(batch_id)
        if batch is None:
            raise BatchNotFound.by_id(batch_id)
        assert batch.sealed or not follow
        found = [
            self._with_events(known, events_limit)
            for known in sorted(self.sessions.values(), key=lambda known: known.session_number)
            if known.batch_id == batch_id
            and known.session_number > after_number
            and not (exclude_irrelevant and known.session.is_irrelevant)
        ]
        if limit and len(found) > limit:
            yield SessionPage(sessions=tuple(found[:limit]), last_number=found[limit - 1].session_number, sealed=False)
        else:
            last_number = max(after_number, batch.session_counter)
            yield SessionPage(sessions=tuple(found), last_number=last_number, sealed=batch.sealed)

    async def get_batch(self, batch_id: str) -> SessionBatch | None:
        require(batch_id=batch_id)
        return self.batches.get(batch_id)

    async def list_batches(
        self, *, statuses: Sequence[SessionBatchStatus] = (), page_size: int = 0, page_token: str = ""
    ) -> BatchList:
        """The token is how many batches were listed before."""
        require_not_negative(page_size=page_size)
        found = [batch for batch in reversed(self.batches.values()) if not statuses or batch.status in statuses]
        start = int(page_token or 0)
        end = start + (page_size or 100)
        return BatchList(batches=tuple(found[start:end]), next_page_token=str(end) if found[end:] else "")

    async def release_batch(self, release_id: str) -> BatchRelease:
        require(release_id=release_id)
        for batch in self.batches.values():
            if batch.release_id == release_id:
                return BatchRelease(batch=batch, already_released=True)
        collecting = self._collecting()
        if collecting is None:
            raise NoCollectingBatch.now()
        now = self._now()
        released = self._changed(collecting, SessionBatchStatus.RELEASED, now, release_id=release_id, released_at=now)
        return BatchRelease(batch=released, already_released=False)

    async def update_batch_status(
        self, batch_id: str, status: SessionBatchStatus, *, expected_status: SessionBatchStatus | None = None
    ) -> SessionBatch:
        require(batch_id=batch_id)
        batch = self.batches.get(batch_id)
        if batch is None:
            raise BatchNotFound.by_id(batch_id)
        if expected_status is not None and batch.status is not expected_status:
            raise BatchStatusMismatch(f"it is {batch.status}")
        if batch.status is status:
            return batch
        if status is not COLLECTING:
            return self._changed(batch, status, self._now())
        if self._collecting() is not None:
            raise BatchAlreadyCollecting("another one collects")
        return self._changed(batch, status, self._now(), release_id=None, released_at=None)

    def _collecting(self) -> SessionBatch | None:
        return next((batch for batch in self.batches.values() if batch.status is COLLECTING), None)

    def _changed(self, batch: SessionBatch, status: SessionBatchStatus, now: datetime, **changes: Any) -> SessionBatch:
        changed = batch.model_copy(update={"status": status, "updated_at": now, **changes})
        self.batches[batch.batch_id] = changed
        return changed

    def _now(self) -> datetime:
        """A clock of its own, which never says the same twice."""
        self._ticks += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._ticks)
