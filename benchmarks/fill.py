"""Databases full of sessions, fast: documents as the service stores them, made from a few and written by hand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from benchmarks.stored import Document, event_document, session_document
from benchmarks.workload import EVENTS_PER_SESSION
from benchmarks.workload import items as make_items
from clickstream_server.storage.mongo.indexes import EVENTS, SESSIONS

_TEMPLATES = 500
_CHUNK = 2_000
_WRITERS = 2
_FILLED = (SESSIONS, EVENTS)
_ID_STEP = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""Odd, so that no id comes twice; its multiples lie scattered as random ids do."""
_MICROS_APART = 10_000


@dataclass(frozen=True, slots=True)
class Filled:
    """What a database was filled with: released batches, one after the other."""

    sessions: int
    batch_ids: tuple[str, ...]

    def some_ids(self, count: int, seed: int) -> list[str]:
        random = Random(seed)
        return [session_id(random.randrange(self.sessions)) for _ in range(count)]


def session_id(place: int) -> str:
    """The id of the session that was stored in this place, counted from 0."""
    return f"{(place + 1) * _ID_STEP % 2**128:032x}"


def fill(
    database: Any, sessions: int, *, batch_sizes: tuple[int, ...] = (), events: int = EVENTS_PER_SESSION, first: int = 0
) -> Filled:
    """Store so many sessions, each with so many events, from this place on; `batch_sizes` of them in a batch.

    (Else all are in one.) The last of the sizes is repeated until all have a batch.
    """
    before = {name: database[name].estimated_document_count() for name in _FILLED}
    sizes = _sizes(sessions, batch_sizes or (sessions,))
    batch_ids = tuple(f"20260101T000000Z-{first + number:08x}" for number in range(len(sizes)))
    make = _Maker(sizes, batch_ids, events, first)
    chunks = iter([range(at, min(at + _CHUNK, sessions)) for at in range(0, sessions, _CHUNK)])
    # With the indexes in place: made at the end, in a fraction of the time, they would be full pages on disk, each of
    # which the first write to it has to load and to split.
    with ThreadPoolExecutor(_WRITERS) as pool:
        for done in [pool.submit(_write, database, chunks, make) for _ in range(_WRITERS)]:
            done.result()
    database.batches.insert_many(
        [
            _batch(batch_id, size, first + number)
            for number, (batch_id, size) in enumerate(zip(batch_ids, sizes, strict=True))
        ]
    )
    stored = [database[name].estimated_document_count() - had for name, had in before.items()]
    assert [sessions, sessions * events] == stored, stored
    return Filled(sessions, batch_ids)


def _sizes(sessions: int, batch_sizes: tuple[int, ...]) -> list[int]:
    sizes: list[int] = []
    while (left := sessions - sum(sizes)) > 0:
        sizes.append(min(left, batch_sizes[min(len(sizes), len(batch_sizes) - 1)]))
    return sizes


def _write(database: Any, chunks: Iterator[range], make: Callable[[int], tuple[Document, list[Document]]]) -> None:
    for chunk in chunks:
        made = [make(place) for place in chunk]
        database.sessions.insert_many([session for session, _ in made], ordered=False)
        if events := [event for _, events in made for event in events]:
            database.events.insert_many(events, ordered=False)


class _Maker:
    """Makes the documents of a session from those of another, with an id, a number and a time of its own."""

    def __init__(self, sizes: Sequence[int], batch_ids: Sequence[str], events: int, first: int) -> None:
        self._first = first
        self._firsts = list(accumulate(sizes, initial=0))
        self._batch_ids = batch_ids
        self._templates = [
            (session_document(item.session, batch_id="", number=0), list(map(event_document, item.events)))
            for item in make_items(_TEMPLATES, seed=0, events=events)
        ]

    def __call__(self, place: int) -> tuple[Document, list[Document]]:
        session, events = self._templates[place % _TEMPLATES]
        batch = bisect_right(self._firsts, place) - 1
        own_id = session_id(self._first + place)
        later = place * _MICROS_APART
        created_at = session["created_at"] + later
        own = {
            "_id": own_id,
            "created_at": created_at,
            "batch_id": self._batch_ids[batch],
            "session_number": place - self._firsts[batch] + 1,
            "registered_at": created_at,
        }
        return session | own, [
            event
            | {
                "_id": {"session_id": own_id, "event_id": event["_id"]["event_id"]},
                "created_at": event["created_at"] + later,
            }
            for event in events
        ]


def _batch(batch_id: str, size: int, number: int) -> Document:
    return {
        "_id": batch_id,
        "status": "RELEASED",
        "session_counter": size,
        "created_at": number,
        "updated_at": number,
        "release_id": f"filled-{number}",
        "released_at": number,
    }
