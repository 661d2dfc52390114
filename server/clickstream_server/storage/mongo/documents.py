"""What is stored, as BSON documents. Pure. `from_pb.py` makes them of what clients send, `to_pb.py` makes of them what
readers get.

Times are whole microseconds since 1970 (BSON's date has only milliseconds), amounts are Decimal128, fields that have
their default are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clickstream.models import SessionBatch, SessionBatchStatus
from clickstream.values import datetime_from_micros
from clickstream_server.canonical import canonical_event, canonical_session, content_hash

Document = dict[str, Any]

COLLECTING: Document = {"status": SessionBatchStatus.COLLECTING.value}
"""The batch that collects: there is one at most."""


def event_key(session_id: str, event_id: str) -> Document:
    """The key of an event. The order of the fields is part of it."""
    return {"session_id": session_id, "event_id": event_id}


EventKey = tuple[str, str]
"""The same key as something that can be looked up in Python."""


def event_key_of(document: Document) -> EventKey:
    """The key of a stored event, or of one that will be."""
    return document["_id"]["session_id"], document["_id"]["event_id"]


_READS_AS = "reads_as"


def of_hash_alone(key: Any, content_hash: bytes, reads_as: bytes | None = None) -> Document:
    """What stands for a stored document, or for one of a dry run: it tells a duplicate from a conflict, no more.

    `reads_as`: the hash of what is stored as that reads now, where it may be another.
    """
    return {"_id": key, "content_hash": content_hash, _READS_AS: reads_as}


def same_session_content(document: Document, sent_hash: bytes) -> bool:
    """Whether what was sent is what is stored: as it was first sent, or as it reads now (sent back from an export)."""
    return _same(document, sent_hash, canonical_session)


def same_event_content(document: Document, sent_hash: bytes) -> bool:
    """Whether what was sent is what is stored, as `same_session_content` has it."""
    return _same(document, sent_hash, canonical_event)


def _same(document: Document, sent_hash: bytes, canonical: Callable[[Document], bytes]) -> bool:
    if document["content_hash"] == sent_hash:
        return True
    reads_as = document[_READS_AS] if _READS_AS in document else content_hash(canonical(document))
    return bool(reads_as == sent_hash)


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
