"""Model <-> BSON documents: pure functions in pairs. Times are whole microseconds since 1970 (BSON's date has only
milliseconds), amounts are Decimal128, fields that have their default are left out.
"""

from __future__ import annotations

from typing import Any

from bson.decimal128 import Decimal128

from clickstream.models import (
    Money,
    RegisteredSession,
    SearchResultItem,
    Session,
    SessionBatch,
    SessionBatchStatus,
    SessionEvent,
    SortBy,
)
from clickstream.values import datetime_from_micros
from clickstream_server.canonical import canonical_event, canonical_session, content_hash

Document = dict[str, Any]


def event_key(session_id: str, event_id: str) -> Document:
    """The key of an event. The order of the fields is part of it."""
    return {"session_id": session_id, "event_id": event_id}


EventKey = tuple[str, str]
"""The same key as something that can be looked up in Python."""


def event_key_of(document: Document) -> EventKey:
    """The key of a stored event, or of one that will be."""
    return document["_id"]["session_id"], document["_id"]["event_id"]


_HASH_ALONE = "hash_alone"


def of_hash_alone(key: Any, content_hash: bytes) -> Document:
    """What stands for a document that a dry run would have stored: it tells a duplicate from a conflict, no more."""
    return {"_id": key, "content_hash": content_hash, _HASH_ALONE: True}


def session_to_document(session: Session, *, content_hash: bytes, created_at: int) -> Document:
    """A session that has no number yet. `created_at` in microseconds: the session's own, or the server's clock."""
    document: Document = {"_id": session.session_id, "created_at": created_at, "content_hash": content_hash}
    if session.search_query is not None:
        document["search_query"] = session.search_query
    if session.search_results:
        document["search_results"] = [_result_to_document(item) for item in session.search_results]
    if session.search_meta:
        document["search_meta"] = session.search_meta
    if session.payload_filter:
        document["payload_filter"] = session.payload_filter
    if session.sort_by is not None:
        document["sort_by"] = session.sort_by.model_dump(mode="json")
    if session.user_id is not None:
        document["user_id"] = session.user_id
    if session.is_irrelevant:
        document["is_irrelevant"] = True
    if session.is_payload_search:
        document["is_payload_search"] = True
    return document


def _result_to_document(item: SearchResultItem) -> Document:
    document: Document = {"object_id": item.object_id}
    if item.rank is not None:
        document["rank"] = item.rank
    if item.meta:
        document["meta"] = item.meta
    return document


def session_from_document(document: Document) -> Session:
    sort_by = document.get("sort_by")
    return Session(
        session_id=document["_id"],
        search_query=document.get("search_query"),
        search_results=document.get("search_results", ()),
        search_meta=document.get("search_meta", {}),
        payload_filter=document.get("payload_filter", {}),
        sort_by=None if sort_by is None else SortBy.model_validate(sort_by),
        user_id=document.get("user_id"),
        created_at=datetime_from_micros(document["created_at"]),
        is_irrelevant=document.get("is_irrelevant", False),
        is_payload_search=document.get("is_payload_search", False),
    )


def registered_fields(document: Document) -> dict[str, Any]:
    """What RegisteredSession and SessionWithEvents share."""
    return {
        "session": session_from_document(document),
        "batch_id": document["batch_id"],
        "session_number": document["session_number"],
        "registered_at": datetime_from_micros(document["registered_at"]),
    }


def registered_from_document(document: Document) -> RegisteredSession:
    return RegisteredSession(**registered_fields(document))


def same_session_content(document: Document, sent_hash: bytes) -> bool:
    """Whether what was sent is what is stored: as it was first sent, or as it reads now (sent back from an export)."""
    if document["content_hash"] == sent_hash or _HASH_ALONE in document:
        return bool(document["content_hash"] == sent_hash)
    return sent_hash == content_hash(canonical_session(session_from_document(document)))


def event_to_document(event: SessionEvent, *, event_id: str, content_hash: bytes, created_at: int) -> Document:
    """An event. `event_id` and `created_at`: its own, or what the server gave it."""
    document: Document = {
        "_id": event_key(event.session_id, event_id),
        "created_at": created_at,
        "event_type": event.event_type,
        "content_hash": content_hash,
    }
    if event.object_id:
        document["object_id"] = event.object_id
    if event.meta:
        document["meta"] = event.meta
    if event.value is not None:
        document["value"] = {
            "currency_code": event.value.currency_code,
            "amount": Decimal128(event.value.amount),
        }
    return document


def value_from_document(document: Document) -> Money | None:
    """What an event was worth."""
    value = document.get("value")
    if value is None:
        return None
    return Money(currency_code=value["currency_code"], amount=value["amount"].to_decimal())


def event_from_document(document: Document) -> SessionEvent:
    return SessionEvent(
        event_id=document["_id"]["event_id"],
        session_id=document["_id"]["session_id"],
        object_id=document.get("object_id", ""),
        event_type=document["event_type"],
        created_at=datetime_from_micros(document["created_at"]),
        meta=document.get("meta", {}),
        value=value_from_document(document),
    )


def same_event_content(document: Document, sent_hash: bytes) -> bool:
    """Whether what was sent is what is stored, as `same_session_content` has it."""
    if document["content_hash"] == sent_hash or _HASH_ALONE in document:
        return bool(document["content_hash"] == sent_hash)
    return sent_hash == content_hash(canonical_event(event_from_document(document)))


def batch_from_document(document: Document) -> SessionBatch:
    """Batches are written field by field in `batches.py` and `registrar.py`; this is the reading half."""
    released_at = document.get("released_at")
    return SessionBatch(
        batch_id=document["_id"],
        status=SessionBatchStatus(document["status"]),
        session_counter=document["session_counter"],
        created_at=datetime_from_micros(document["created_at"]),
        release_id=document.get("release_id"),
        released_at=None if released_at is None else datetime_from_micros(released_at),
        updated_at=datetime_from_micros(document["updated_at"]),
    )
