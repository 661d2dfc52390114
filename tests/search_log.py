"""Rows of search logs in the UBI form, and a log with every kind of trouble."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

STAMP = "2024-12-10T00:01:29.378Z"


def as_lines(rows: list[Any]) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def query(query_id: Any, **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "client_id": "c", "user_query": "lamp", "timestamp": STAMP} | fields


def event(query_id: Any, action: Any = "hover", **fields: Any) -> dict[str, Any]:
    return {"query_id": query_id, "action_name": action, "timestamp": STAMP} | fields


def impression(query_id: str, object_id: str, ordinal: int) -> dict[str, Any]:
    about = {"object": {"object_id": object_id}, "position": {"ordinal": ordinal}}
    return event(query_id, "impression", event_attributes=about)


TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
TROUBLE: list[Any] = [
    impression("q1", "b", 1),  # 1: before its query
    query("q1"),  # 2
    impression("q1", "a", 0),  # 3
    event("q1", "click", event_attributes={"object": {"object_id": "a"}}),  # 4
    event("q1", "click"),  # 5: the server refuses it
    event("q1", "x" * 65),  # 6: the server refuses it
    event("q1", timestamp=TOMORROW),  # 7: the server refuses it
    event("q1", message="twice"),  # 8
    event("q1", message="twice"),  # 9: a duplicate
    event("elsewhere"),  # 10: of a query that is not here
    event(None),  # 11: no query
    query("q1", query_attributes={"page": 2}),  # 12: a further row
    query("q" * 257),  # 13: the server refuses it
    event("q" * 257),  # 14: and its event
    query("future", timestamp=TOMORROW),  # 15: the server refuses it
    event("future"),  # 16: an event of a refused query
    query("before"),  # 17: there with other content
    query("timeless", timestamp=None),  # 18
    '{"query_id": "cut',  # 19
    query(17, user_query=None, query_response_hit_ids=[1, 2]),  # 20: a number as its id
    event(17, timestamp=1733788889378),  # 21
    {"hello": "world"},  # 22
]
