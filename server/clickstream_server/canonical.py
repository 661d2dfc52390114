"""The canonical form of what a client sent, and the hash that tells a retry from a conflict. Pure.

The form is JSON with sorted keys, without white space, in UTF-8, of the fields that differ from their defaults; times
are whole microseconds since 1970, amounts are text. Numbers are canonical already (see `clickstream.values`).
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from clickstream.models import Order, Session, SessionEvent
from clickstream.values import micros_from_datetime

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """A JSON value in its canonical form."""
    return _encode(value).encode()


def content_hash(canonical: bytes) -> bytes:
    """SHA-256 of a canonical form: 32 bytes."""
    return sha256(canonical).digest()


def derived_event_id(hashed: bytes) -> str:
    """The id of an event that came without one: the first 128 bits of its content's hash, in hexadecimal."""
    return hashed[:16].hex()


def canonical_session(session: Session) -> bytes:
    """The content of a session."""
    content: dict[str, Any] = {"session_id": session.session_id}
    if session.search_query is not None:
        content["search_query"] = session.search_query
    if session.search_results:
        content["search_results"] = [[item.object_id, item.rank, item.meta] for item in session.search_results]
    if session.search_meta:
        content["search_meta"] = session.search_meta
    if session.payload_filter:
        content["payload_filter"] = session.payload_filter
    if (sort_by := session.sort_by) is not None:
        content["sort_by"] = [sort_by.field, sort_by.order is Order.DESC, sort_by.force_not_payload]
    if session.user_id is not None:
        content["user_id"] = session.user_id
    if session.created_at is not None:
        content["created_at"] = micros_from_datetime(session.created_at)
    if session.is_irrelevant:
        content["is_irrelevant"] = True
    if session.is_payload_search:
        content["is_payload_search"] = True
    return canonical_json(content)


def canonical_event(event: SessionEvent) -> bytes:
    """The content of an event: everything but `event_id`, which may be derived from it."""
    content: dict[str, Any] = {"session_id": event.session_id, "event_type": event.event_type}
    if event.object_id:
        content["object_id"] = event.object_id
    if event.created_at is not None:
        content["created_at"] = micros_from_datetime(event.created_at)
    if event.meta:
        content["meta"] = event.meta
    if event.value is not None:
        content["value"] = [event.value.currency_code, event.value.text]
    return canonical_json(content)
