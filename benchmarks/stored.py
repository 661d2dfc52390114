"""Models as the documents that the service stores. The only place here that knows how it makes them."""

from __future__ import annotations

from typing import Any

from clickstream import Session, SessionEvent, wire
from clickstream.values import micros_from_datetime
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo import from_pb

Document = dict[str, Any]
_LIMITS = Limits()


def event_document(event: SessionEvent) -> Document:
    assert event.created_at is not None
    micros = micros_from_datetime(event.created_at)
    return from_pb.event_document(wire.event_to_pb(event), now_micros=micros, limits=_LIMITS)[0]


def session_document(session: Session, *, batch_id: str, number: int) -> Document:
    assert session.created_at is not None
    micros = micros_from_datetime(session.created_at)
    document, _ = from_pb.session_document(wire.session_to_pb(session), now_micros=micros, limits=_LIMITS)
    return document | {"batch_id": batch_id, "session_number": number, "registered_at": micros}
