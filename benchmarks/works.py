"""The contests.

Each side finds its input ready: our client the models, the hand-written side the very documents that the service
stores, with their hashes and numbers. So the service's checks, hashes and numbers are all on the service's bill.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

from benchmarks.contest import Contest
from benchmarks.system import System
from benchmarks.workload import EVENTS_PER_SESSION, Document, event_document, events, session_document
from benchmarks.workload import items as make_items
from clickstream import ExportFilter, ImportChunk, ImportConfig, ImportItem, ImportSummary, SessionEvent

CHUNK_BY_HAND = 1_000
PAGE_BY_HAND = 500
CHUNK_SESSIONS = 500
_COMPARED = 100


class StreamEvents(Contest):
    """`client.event_stream()`, against `insert_many(ordered=False)` in chunks of 1,000."""

    name = "stream-events"
    unit = "events"
    items: ClassVar[int] = 100_000

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._events: list[SessionEvent] = []
        self._documents: list[Document] = []
        self._in_all = 0

    async def prepare(self, items: int, seed: int) -> None:
        self._events = list(events(items, seed))
        self._documents = [event_document(event) for event in self._events]
        self._in_all += items

    async def clickstream(self) -> None:
        async with self.system.client.event_stream() as stream:
            for event in self._events:
                await stream.send(event)
        assert stream.totals.inserted == len(self._events), stream.totals

    async def direct(self) -> None:
        insert_in_chunks(self.system.direct.events, self._documents)

    async def check(self) -> None:
        for database in (self.system.ours, self.system.direct):
            assert database.events.count_documents({}) == self._in_all
        check_same(self.system, "events", self._documents)


class ImportSessions(Contest):
    """`client.import_sessions()`, against `insert_many(ordered=False)` of the sessions, then of their events."""

    name = "import-sessions"
    unit = "sessions"
    items: ClassVar[int] = 20_000

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._items: list[ImportItem] = []
        self._sessions: list[Document] = []
        self._events: list[Document] = []
        self._in_all = 0

    async def prepare(self, items: int, seed: int) -> None:
        self._items, self._sessions, self._events = [], [], []
        for number, item in enumerate(make_items(items, seed), start=self._in_all + 1):
            self._items.append(item)
            self._sessions.append(session_document(item.session, batch_id="by-hand", number=number))
            self._events.extend(map(event_document, item.events))
        self._in_all += items

    async def clickstream(self) -> None:
        summary = await import_all(self.system, self._items)
        assert summary.sessions.inserted == len(self._items), summary
        assert summary.events.inserted == len(self._events), summary

    async def direct(self) -> None:
        insert_in_chunks(self.system.direct.sessions, self._sessions)
        insert_in_chunks(self.system.direct.events, self._events)

    async def check(self) -> None:
        for database in (self.system.ours, self.system.direct):
            assert database.sessions.count_documents({}) == self._in_all
            assert database.events.count_documents({}) == self._in_all * EVENTS_PER_SESSION
        (batch,) = self.system.ours.batches.find()
        assert batch["session_counter"] == self._in_all
        check_same(self.system, "sessions", self._sessions, but=("batch_id", "registered_at", "session_number"))
        check_same(self.system, "events", self._events)


class ExportSessions(Contest):
    """`client.export_sessions()` of a batch to models, digest checked, against reading it by hand to dicts.

    By hand: sessions by number in pages of 500, and one `$in` query for the events of each page. Both read the same.
    """

    name = "export-sessions"
    unit = "sessions"
    items: ClassVar[int] = 20_000

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._batch_id = ""
        self._wanted = 0
        self._found: dict[str, tuple[int, int]] = {}

    async def prepare(self, items: int, seed: int) -> None:
        if self._wanted < items:  # a few for the warm-up, the rest for all of the rounds
            await import_all(self.system, make_items(items - self._wanted, seed))
            (batch,) = self.system.ours.batches.find()
            self._batch_id, self._wanted = batch["_id"], items

    async def clickstream(self) -> None:
        sessions = found = 0
        async for page in self.system.client.export_sessions(ExportFilter(batch_id=self._batch_id)):
            sessions += len(page.sessions)
            found += sum(len(exported.session.events) for exported in page.sessions)
        self._found["clickstream"] = sessions, found

    async def direct(self) -> None:
        sessions = found = 0
        for page in pages_by_hand(self.system.ours, self._batch_id):
            sessions += len(page)
            found += sum(len(session["events"]) for session in page)
        self._found["direct"] = sessions, found

    async def check(self) -> None:
        assert self._found == dict.fromkeys(self._found, (self._wanted, self._wanted * EVENTS_PER_SESSION))


CONTESTS: dict[str, type[Contest]] = {found.name: found for found in (StreamEvents, ImportSessions, ExportSessions)}


def insert_in_chunks(collection: Any, documents: Sequence[Document]) -> None:
    """The best that a user can do by hand, with one thread."""
    for at in range(0, len(documents), CHUNK_BY_HAND):
        collection.insert_many(documents[at : at + CHUNK_BY_HAND], ordered=False)


def pages_by_hand(database: Any, batch_id: str) -> Iterator[list[Document]]:
    """A batch's sessions with their events, in order, two queries a page."""
    after = 0
    while True:
        query = {"batch_id": batch_id, "session_number": {"$gt": after}}
        page = list(database.sessions.find(query).sort("session_number", 1).limit(PAGE_BY_HAND))
        if not page:
            return
        by_id = {session["_id"]: session for session in page}
        for session in page:
            session["events"] = []
        order = [("_id.session_id", 1), ("created_at", 1), ("_id.event_id", 1)]
        for event in database.events.find({"_id.session_id": {"$in": list(by_id)}}).sort(order):
            by_id[event["_id"]["session_id"]]["events"].append(event)
        yield page
        after = page[-1]["session_number"]


async def import_all(system: System, wanted: Iterator[ImportItem] | Sequence[ImportItem]) -> ImportSummary:
    """Import these through the client; return the summary."""
    rest = iter(wanted)

    async def chunks() -> AsyncIterator[ImportChunk]:
        sequence = 0
        while chunk := list(islice(rest, CHUNK_SESSIONS)):
            sequence += 1
            yield ImportChunk(sequence, chunk)

    answer = None
    async for answer in system.client.import_sessions(ImportConfig(import_id="benchmark"), chunks()):  # noqa: B007
        pass
    assert isinstance(answer, ImportSummary)
    return answer


def check_same(system: System, collection: str, documents: Sequence[Document], *, but: Sequence[str] = ()) -> None:
    """Fail unless a sample of what both wrote is the same."""
    for document in documents[:: max(1, len(documents) // _COMPARED)]:
        stored = [database[collection].find_one({"_id": document["_id"]}) for database in (system.ours, system.direct)]
        ours, direct = ({key: value for key, value in found.items() if key not in but} for found in stored)
        assert ours == direct
