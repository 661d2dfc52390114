"""`python -m benchmarks.export_by_hand URI DATABASE BATCH --output FILE`: the lines of `clickstream export`, by hand.

As one would write it for documents of this kind: PyMongo's dicts, two queries a page, and orjson.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from pymongo import MongoClient

from benchmarks.by_hand import pages_of_batch

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("uri", "database", "batch"):
        parser.add_argument(name)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with MongoClient[Any](given.uri) as client, given.output.open("wb") as file:
        for page in pages_of_batch(client[given.database], given.batch):
            file.writelines(orjson.dumps(_row(session), option=orjson.OPT_APPEND_NEWLINE) for session in page)


def _row(document: dict[str, Any]) -> dict[str, Any]:
    session = {
        "session_id": document["_id"],
        "search_query": document.get("search_query"),
        "search_results": document.get("search_results", []),
        "search_meta": document.get("search_meta", {}),
        "payload_filter": document.get("payload_filter", {}),
        "sort_by": document.get("sort_by"),
        "user_id": document.get("user_id"),
        "created_at": _moment(document["created_at"]),
        "is_irrelevant": document.get("is_irrelevant", False),
        "is_payload_search": document.get("is_payload_search", False),
    }
    for result in session["search_results"]:
        result["meta"] = _in_order(result.get("meta", {}))
    totals: dict[str, Decimal] = defaultdict(Decimal)
    events = []
    for event in document["events"]:
        if value := event.get("value"):
            totals[value["currency_code"]] += value["amount"].to_decimal()
        events.append(_event(event))
    return {
        "session": {name: value for name, value in session.items() if value is not None},
        "events": events,
        "event_count": len(events),
        "totals": [_money(code, amount) for code, amount in sorted(totals.items())],
    }


def _event(document: dict[str, Any]) -> dict[str, Any]:
    event = {
        "event_id": document["_id"]["event_id"],
        "object_id": document.get("object_id", ""),
        "event_type": document["event_type"],
        "created_at": _moment(document["created_at"]),
        "meta": _in_order(document.get("meta", {})),
    }
    if value := document.get("value"):
        event["value"] = _money(value["currency_code"], value["amount"])
    return event


def _money(code: str, amount: object) -> dict[str, str]:
    return {"currency_code": code, "amount": str(amount)}


def _moment(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _in_order(value: dict[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in sorted(value)}


main()
