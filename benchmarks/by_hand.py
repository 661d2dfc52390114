"""What users do who have no such service: straight on PyMongo, on the same collections, indexes and durability."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.read_concern import ReadConcern

from benchmarks.stored import Document
from clickstream_server.storage.mongo.driver import MAJORITY_WRITE

CHUNK = 1_000
PAGE = 500
THREADS = 32
_COLLECTING = {"status": "COLLECTING"}
_EVENTS_IN_ORDER = [("_id.session_id", 1), ("created_at", 1), ("_id.event_id", 1)]
_EVENTS_MOST = 100

T = TypeVar("T")


def in_threads(call: Callable[[T], object], wanted: Iterable[T]) -> None:
    """One call at a time in each of 32 threads. Raises what one of them raises."""
    waiting = iter(list(wanted))  # a list's iterator may be shared

    def work() -> None:
        for one in waiting:
            call(one)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result()


# --- direct -----------------------------------------------------------------------------------------------------------


def insert_in_chunks(collection: Any, documents: Sequence[Document]) -> None:
    """The best that can be done by hand, with one thread."""
    for at in range(0, len(documents), CHUNK):
        collection.insert_many(documents[at : at + CHUNK], ordered=False)


def register_in_transaction(database: Any, document: Document) -> None:
    """A number and the session that has it, both or neither."""

    def write(session: ClientSession) -> None:
        register_plainly(database, document, session=session)

    with database.client.start_session() as session:
        session.with_transaction(write, ReadConcern("snapshot"), MAJORITY_WRITE)


def pages_of_batch(database: Any, batch_id: str) -> Iterator[list[Document]]:
    """A batch's sessions with their events, in order: two queries a page."""
    after = 0
    while True:
        query = {"batch_id": batch_id, "session_number": {"$gt": after}}
        page = list(database.sessions.find(query).sort("session_number", 1).limit(PAGE))
        if not page:
            return
        by_id = {session["_id"]: session for session in page}
        for session in page:
            session["events"] = []
        for event in database.events.find({"_id.session_id": {"$in": list(by_id)}}).sort(_EVENTS_IN_ORDER):
            by_id[event["_id"]["session_id"]]["events"].append(event)
        yield page
        after = page[-1]["session_number"]


# --- plain ------------------------------------------------------------------------------------------------------------


def open_batch(database: Any) -> None:
    """So that no two threads make it at once."""
    database.batches.update_one(_COLLECTING, {"$setOnInsert": {"_id": "by-hand", "session_counter": 0}}, upsert=True)


def register_plainly(database: Any, document: Document, session: ClientSession | None = None) -> None:
    """Take a number, then insert."""
    batch = database.batches.find_one_and_update(
        _COLLECTING, {"$inc": {"session_counter": 1}}, return_document=ReturnDocument.AFTER, session=session
    )
    place = {"batch_id": batch["_id"], "session_number": batch["session_counter"]}
    database.sessions.insert_one(document | place, session=session)


def read_plainly(database: Any, session_id: str) -> Document:
    """A session, then its events."""
    found: Document = database.sessions.find_one({"_id": session_id})
    events = database.events.find({"_id.session_id": session_id}).sort(_EVENTS_IN_ORDER).limit(_EVENTS_MOST)
    return found | {"events": list(events)}
