"""Models as the documents that the service stores. The only place here that knows how it makes them."""

from __future__ import annotations

from typing import Any

from clickstream import Session, SessionEvent
from clickstream.values import micros_from_datetime
from clickstream_server.canonical import canonical_event, canonical_session, content_hash
from clickstream_server.storage.mongo import documents

Document = dict[str, Any]


def event_document(event: SessionEvent) -> Document:
    assert event.created_at is not None
    return documents.event_to_document(
        event,
        event_id=event.event_id,
        content_hash=content_hash(canonical_event(event)),
        created_at=micros_from_datetime(event.created_at),
    )


def session_document(session: Session, *, batch_id: str, number: int) -> Document:
    assert session.created_at is not None
    micros = micros_from_datetime(session.created_at)
    document = documents.session_to_document(
        session, content_hash=content_hash(canonical_session(session)), created_at=micros
    )
    return document | {"batch_id": batch_id, "session_number": number, "registered_at": micros}
