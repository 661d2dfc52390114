"""The canonical form of what a client sent, and the hash that tells a retry from a conflict. Pure.

The form is JSON with sorted keys, without white space, in UTF-8, of the fields that differ from their defaults; times
are whole microseconds since 1970, amounts are text. Numbers: see docs/adr/0003-content-hash-and-duplicates.md.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson
from bson.decimal128 import Decimal128

_SESSION_FIELDS = (
    "search_query",
    "search_meta",
    "payload_filter",
    "user_id",
    "created_at",
    "is_irrelevant",
    "is_payload_search",
)
_EVENT_FIELDS = ("object_id", "created_at", "meta")

Document = dict[str, Any]


def canonical_json(value: Any) -> bytes:
    """A JSON value in its canonical form."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def content_hash(canonical: bytes) -> bytes:
    """SHA-256 of a canonical form: 32 bytes."""
    return sha256(canonical).digest()


def derived_event_id(hashed: bytes) -> str:
    """The id of an event that came without one: the first 128 bits of its content's hash, in hexadecimal."""
    return hashed[:16].hex()


def canonical_session(document: Document) -> bytes:
    """The content of a session, given as its document. `created_at` is missing in it where the client sent none."""
    content = {"session_id": document["_id"]}
    for name in _SESSION_FIELDS:
        if name in document:
            content[name] = document[name]
    if results := document.get("search_results"):
        content["search_results"] = [
            [item["object_id"], item.get("rank"), item.get("meta") or _NOTHING] for item in results
        ]
    if sort_by := document.get("sort_by"):
        content["sort_by"] = [sort_by["field"], sort_by["order"] == "DESC", sort_by["force_not_payload"]]
    return canonical_json(content)


_NOTHING: Document = {}


@lru_cache(maxsize=4096)
def amount_text(bid: bytes) -> str:
    """A stored amount in plain digits. The same ones come again and again, and to convert one takes 2 µs."""
    return format(Decimal128.from_bid(bid).to_decimal(), "f")


def canonical_event(document: Document) -> bytes:
    """The content of an event, given as its document: everything but `event_id`, which may be derived from it."""
    content = {"session_id": document["_id"]["session_id"], "event_type": document["event_type"]}
    for name in _EVENT_FIELDS:
        if name in document:
            content[name] = document[name]
    if value := document.get("value"):
        content["value"] = [value["currency_code"], amount_text(value["amount"].bid)]
    return canonical_json(content)
