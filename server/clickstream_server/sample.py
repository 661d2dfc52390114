"""A small generated search log in the OpenSearch UBI format, for a first look and for the demo. Pure.

It is the same for the same seed, whenever it is made, so that a second replay finds everything stored. Like a real
log it is not quite clean: one query is logged twice with different content, one event twice, one event belongs to a
query that is not in the log, and one line is cut off.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

_START = datetime(2025, 3, 3, 8, 0, tzinfo=UTC)
_KINDS = {
    "desk lamp": (1490, 8990),
    "office chair": (8900, 45900),
    "usb-c charger": (1290, 5990),
    "running shoes": (3990, 17900),
    "coffee grinder": (2490, 24900),
    "water bottle": (790, 3990),
    "rain jacket": (2990, 24900),
    "headphones": (1990, 34900),
    "bookshelf": (3990, 29900),
    "kettle": (1990, 12900),
}
"""What is sold, and between which prices in cents."""

_STYLES = ("", "small ", "black ", "cheap ", "light ", "best ")
_PRODUCTS_OF_KIND = 40
_HITS_MAX = 12
_SEEN_NEXT = 0.88
"""How likely the next place is looked at if the one before was (the first always is): the bias of positions."""


def sample_log(queries: int = 200, seed: int = 1) -> bytes:
    """A log with so many queries (at least 1), as plain NDJSON. Logs of different size or seed share no query."""
    rng = random.Random(f"{seed}/{queries}")
    rows = [row for number in range(queries) for row in _one_search(rng, number)]
    rows += _odd_rows(rng, rows)
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    broken = json.dumps(rows[-1])[:80]
    lines.insert(len(lines) // 2, broken)
    return "".join(f"{line}\n" for line in lines).encode()


def _one_search(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """A query's row, and those of what the person saw and did."""
    kind = rng.choice(list(_KINDS))
    slug = kind.replace(" ", "-")
    hits = [f"{slug}-{place:02}" for place in rng.sample(range(1, _PRODUCTS_OF_KIND + 1), rng.randint(3, _HITS_MAX))]
    moment = _START + timedelta(seconds=97 * number + rng.randint(0, 60), milliseconds=rng.randint(0, 999))
    who = {"application": "sample-shop", "query_id": _uuid(rng), "client_id": f"client-{rng.randint(1, 60):03}"}
    query = rng.choice(_STYLES) + kind
    rows: list[dict[str, Any]] = [
        {
            **who,
            "user_query": query,
            "query_response_id": _uuid(rng),
            "query_response_hit_ids": hits,
            "query_attributes": {"page_size": len(hits)},
            "timestamp": _iso(moment),
        }
    ]
    who |= {"session_id": f"visit-{rng.randint(1, 90):03}", "user_query": query}
    for ordinal, product in enumerate(hits):
        if ordinal and rng.random() > _SEEN_NEXT:
            break
        moment += timedelta(milliseconds=rng.randint(200, 2500))
        rows += _what_was_done(rng, who, product, ordinal, moment)
    return rows


def _what_was_done(
    rng: random.Random, who: dict[str, Any], product: str, ordinal: int, moment: datetime
) -> list[dict[str, Any]]:
    """One place of the list was looked at, and perhaps clicked, perhaps bought. Good products are clicked more."""
    about = {"object_id": product, "object_id_field": "sku"}
    rows = [_event(who, "impression", about, ordinal, moment)]
    quality = 0.08 + 0.4 * _worth(product)
    if rng.random() < quality:
        rows.append(_event(who, "click", about, ordinal, moment + timedelta(seconds=1)))
        if rng.random() < quality:
            rows.append(_event(who, "add_to_cart", about, ordinal, moment + timedelta(seconds=20)))
            if rng.random() < 0.5:
                detail = {"price": _price(product), "quantity": rng.choice([1, 1, 1, 2])}
                bought = about | {"object_detail": detail}
                rows.append(_event(who, "purchase", bought, ordinal, moment + timedelta(seconds=90)))
    return rows


def _event(who: dict[str, Any], action: str, about: dict[str, Any], ordinal: int, moment: datetime) -> dict[str, Any]:
    return {
        **who,
        "action_name": action,
        "message_type": {"click": "CLICK_THROUGH", "purchase": "CONVERSION"}.get(action, "INFO"),
        "message": None,
        # Half of the programs that write such logs write text, the others numbers.
        "timestamp": _iso(moment) if ordinal % 2 == 0 else int(moment.timestamp() * 1000),
        "event_attributes": {"object": about, "position": {"ordinal": ordinal}},
    }


def _odd_rows(rng: random.Random, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What makes the account interesting. The first search is long over when its query is logged once more."""
    query = next(row for row in rows if "query_response_hit_ids" in row)
    event = next(row for row in rows if row.get("action_name") == "impression")
    counted = query | {"query_response_id": _uuid(rng), "query_response_hit_ids": [], "query": '{"size":0}'}
    stray = event | {"query_id": _uuid(rng), "action_name": "click"}
    return [counted, event, stray]


def _worth(product: str) -> float:
    """How good a product is, from 0 to 1: it follows from its number, so that it is the same in every search."""
    return int(product[-2:]) * 17 % _PRODUCTS_OF_KIND / _PRODUCTS_OF_KIND


def _price(product: str) -> int:
    low, high = _KINDS[product[:-3].replace("-", " ").replace("usb c", "usb-c")]
    return low + round((high - low) * _worth(product))


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
