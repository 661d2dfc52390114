"""Models as the storage takes them: sent as messages, checked, and made documents."""

from __future__ import annotations

from typing import Any

from clickstream import Session, SessionEvent, wire
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.from_pb import event_document, session_document


def document_of(thing: Session | SessionEvent, *, now_micros: int = 2**52, **limits: Any) -> dict[str, Any]:
    """The document that the storage makes of it. Raises InvalidField."""
    chosen = Limits(**limits)
    if isinstance(thing, Session):
        return session_document(wire.session_to_pb(thing), now_micros=now_micros, limits=chosen)[0]
    return event_document(wire.event_to_pb(thing), now_micros=now_micros, limits=chosen)[0]
