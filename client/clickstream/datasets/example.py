"""The form of a training example: a session as (query, results shown, clicks), in plain values. Pure.

Every data set of this package yields it: as a dict, or as a row with the columns in `schema.py`. Values that are free
in form (structured queries, `meta`) are JSON text, with sorted keys, so that every row has the same types. Amounts of
money are decimal text, since no column type but text holds every amount exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from clickstream.models import DEFAULT_EVENT_TYPE, SessionEvent, SessionWithEvents

_TO_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode  # `dumps` would make an encoder each time


class ShownResult(TypedDict):
    """One result; its place in the list is its position, from 0. `clicks`: how many clicks it got."""

    object_id: str
    rank: float | None
    clicks: int
    meta: str | None


class Action(TypedDict):
    """One event. `position`: the first place at which its object was shown; None: not shown, or no object."""

    event_id: str
    event_type: str
    object_id: str | None
    position: int | None
    created_at: datetime
    currency_code: str | None
    amount: str | None
    meta: str | None


class Example(TypedDict):
    """One session. `query`: text, or JSON text if `query_is_json`. `clicks` and `other_events`: in order of time.

    `event_count`: how many events are stored; more than stand here, and than count in `results`, if these were limited.
    """

    session_id: str
    session_number: int
    query: str | None
    query_is_json: bool
    user_id: str | None
    created_at: datetime
    results: list[ShownResult]
    clicks: list[Action]
    other_events: list[Action]
    event_count: int
    search_meta: str | None
    payload_filter: str | None
    sort_by: str | None
    is_payload_search: bool
    is_irrelevant: bool


def example_of(found: SessionWithEvents) -> Example:
    """The session as an example."""
    session = found.session
    positions: dict[str, int] = {}
    results: list[ShownResult] = []
    for place, item in enumerate(session.search_results):
        positions.setdefault(item.object_id, place)
        results.append({"object_id": item.object_id, "rank": item.rank, "clicks": 0, "meta": _json(item.meta)})
    clicks: list[Action] = []
    others: list[Action] = []
    for event in found.events:
        action = _action(event, positions)
        if event.event_type != DEFAULT_EVENT_TYPE:
            others.append(action)
            continue
        clicks.append(action)
        if action["position"] is not None:
            results[action["position"]]["clicks"] += 1
    query = session.search_query
    is_json = query is not None and not isinstance(query, str)
    assert session.created_at is not None
    return {
        "session_id": session.session_id,
        "session_number": found.session_number,
        "query": _TO_JSON(query) if is_json else query,
        "query_is_json": is_json,
        "user_id": session.user_id,
        "created_at": session.created_at,
        "results": results,
        "clicks": clicks,
        "other_events": others,
        "event_count": found.event_count,
        "search_meta": _json(session.search_meta),
        "payload_filter": _json(session.payload_filter),
        "sort_by": None if session.sort_by is None else _json(session.sort_by.model_dump(mode="json")),
        "is_payload_search": session.is_payload_search,
        "is_irrelevant": session.is_irrelevant,
    }


def _action(event: SessionEvent, positions: Mapping[str, int]) -> Action:
    assert event.created_at is not None
    value = event.value
    return {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "object_id": event.object_id or None,
        "position": positions.get(event.object_id),
        "created_at": event.created_at,
        "currency_code": None if value is None else value.currency_code,
        "amount": None if value is None else value.text,
        "meta": _json(event.meta),
    }


def _json(value: Mapping[str, Any]) -> str | None:
    return _TO_JSON(value) if value else None
