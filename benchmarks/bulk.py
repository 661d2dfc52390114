"""The contests of streams that write: our client finds models, the other side the finished documents."""

from __future__ import annotations

from typing import Any, ClassVar

from benchmarks import by_hand
from benchmarks.calls import PLACE
from benchmarks.contest import Contest, Contestant
from benchmarks.loads import check_numbers, check_stored, import_all
from benchmarks.marks import at_least
from benchmarks.stored import Document, event_document, session_document
from benchmarks.system import DIRECT, Service, System
from benchmarks.workload import events
from benchmarks.workload import items as make_items
from clickstream import ImportItem, SessionEvent


class StreamEvents(Contest):
    """`client.event_stream()`, against `insert_many(ordered=False)` in chunks of 1,000."""

    name = "stream-events"
    unit = "events"
    items: ClassVar[int] = 1_000_000
    quick_items: ClassVar[int] = 20_000
    rounds: ClassVar[int] = 3
    marks = (at_least(0.85, DIRECT),)

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._events: list[SessionEvent] = []
        self._documents: list[Document] = []

    async def prepare(self, items: int, seed: int) -> None:
        await self.system.clear()
        if not self.system.keeps and len(self._events) == items:  # the same again, as they take long to be made
            return
        self._events = list(events(items, seed))
        self._documents = [event_document(event) for event in self._events]

    async def clickstream(self, service: Service) -> None:
        async with service.client.event_stream() as stream:
            for event in self._events:
                await stream.send(event)
        assert stream.totals.inserted == len(self._events), stream.totals

    def others(self) -> list[Contestant]:
        direct = self.system.database(DIRECT)
        return [Contestant(DIRECT, lambda: self._direct(direct), database=direct)]

    async def _direct(self, database: Any) -> None:
        by_hand.insert_in_chunks(database.events, self._documents)

    async def check(self, database: Any) -> None:
        check_stored(database.events, self._documents, alone=not self.system.keeps)


class ImportSessions(Contest):
    """`client.import_sessions()`, against `insert_many(ordered=False)` of the sessions, then of their events."""

    name = "import-sessions"
    unit = "sessions"
    items: ClassVar[int] = 200_000
    quick_items: ClassVar[int] = 2_000
    rounds: ClassVar[int] = 3
    marks = (at_least(0.6, DIRECT),)

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._items: list[ImportItem] = []
        self._sessions: list[Document] = []
        self._events: list[Document] = []

    async def prepare(self, items: int, seed: int) -> None:
        await self.system.clear()
        if not self.system.keeps and len(self._items) == items:
            return
        self._items, self._sessions, self._events = [], [], []
        for number, item in enumerate(make_items(items, seed), start=1):
            self._items.append(item)
            self._sessions.append(session_document(item.session, batch_id="by-hand", number=number))
            self._events.extend(map(event_document, item.events))

    async def clickstream(self, service: Service) -> None:
        summary = await import_all(service.client, self._items)
        assert summary.sessions.inserted == len(self._items), summary
        assert summary.events.inserted == len(self._events), summary

    def others(self) -> list[Contestant]:
        direct = self.system.database(DIRECT)
        return [Contestant(DIRECT, lambda: self._direct(direct), database=direct)]

    async def _direct(self, database: Any) -> None:
        by_hand.insert_in_chunks(database.sessions, self._sessions)
        by_hand.insert_in_chunks(database.events, self._events)

    async def check(self, database: Any) -> None:
        check_stored(database.sessions, self._sessions, but=PLACE, alone=not self.system.keeps)
        check_stored(database.events, self._events, alone=not self.system.keeps)
        if database.name != DIRECT:  # by hand nothing is numbered
            check_numbers(database)
