"""How the cost of a call and of a session grows: with callers at once, and with events a session."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from functools import partial
from typing import ClassVar

from benchmarks.calls import PLACE, GetSession, Register
from benchmarks.contest import Contest, Contestant
from benchmarks.fill import Filled, fill
from benchmarks.loads import CHUNK_SESSIONS, check_numbers, check_stored, import_all, in_flight
from benchmarks.stored import event_document, session_document
from benchmarks.system import Service, System
from benchmarks.workload import items as make_items
from clickstream import ImportItem

CALLERS = (1, 4, 16, 64, 256)
EVENTS = (0, 5, 20, 100)
_CHUNK_ITEMS_MAX = 10_000


class RegisterByCallers(Register):
    """`client.register_session()` by so many callers at once. Each number of them has sessions of its own."""

    name = "register, by callers"
    items: ClassVar[int] = 1_000
    quick_items: ClassVar[int] = 100
    marks = ()

    async def prepare(self, items: int, seed: int) -> None:
        await super().prepare(items * len(CALLERS), seed)

    def contestants(self) -> list[Contestant]:
        (service,) = self.system.services[:1]
        return [
            Contestant(f"{callers:,} at once", partial(self._by, service, place), service.pid, service.database)
            for place, callers in enumerate(CALLERS)
        ]

    async def _by(self, service: Service, place: int) -> list[float]:
        count = len(self._sessions) // len(CALLERS)
        mine = self._sessions[place * count : (place + 1) * count]
        return await in_flight(service.client.register_session, mine, callers=CALLERS[place])


class GetSessionByCallers(GetSession):
    """`client.get_session()` by so many callers at once."""

    name = "get-session, by callers"
    items: ClassVar[int] = 1_000
    quick_items: ClassVar[int] = 100
    marks = ()

    def contestants(self) -> list[Contestant]:
        (service,) = self.system.services[:1]
        return [
            Contestant(f"{callers:,} at once", partial(self._by, service, callers), service.pid) for callers in CALLERS
        ]

    async def _by(self, service: Service, callers: int) -> list[float]:
        return await in_flight(service.client.get_session, self._ids[service.name], callers=callers)


class _ByEvents(Contest):
    unit = "sessions"
    items: ClassVar[int] = 4_000
    quick_items: ClassVar[int] = 200
    rounds: ClassVar[int] = 3

    async def clickstream(self, service: Service) -> None:
        """Not once, but once for each number of events."""

    @abstractmethod
    async def once(self, service: Service, events: int) -> None:
        """Do it with so many events a session."""

    def contestants(self) -> list[Contestant]:
        (service,) = self.system.services[:1]
        return [Contestant(f"{events} events", partial(self.once, service, events), service.pid) for events in EVENTS]


class GetBatchByEvents(_ByEvents):
    """`client.get_batch_pages()` of sessions with so many events each."""

    name = "get-batch, by events"

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._filled: dict[int, Filled] = {}
        self._count = 0

    async def prepare(self, items: int, seed: int) -> None:  # noqa: ARG002  # they are only read
        if self._count == items:
            return
        await self.system.clear()
        self._count = items
        for place, events in enumerate(EVENTS):
            self._filled[events] = await asyncio.to_thread(
                fill, self.system.ours, items, events=events, first=place * items
            )

    async def once(self, service: Service, events: int) -> None:
        sessions = found = 0
        async for page in service.client.get_batch_pages(self._filled[events].batch_ids[0]):
            sessions += len(page.sessions)
            found += sum(len(one.events) for one in page.sessions)
        assert (self._count, self._count * events) == (sessions, found)


class ImportByEvents(_ByEvents):
    """`client.import_sessions()` of sessions with so many events each."""

    name = "import-sessions, by events"

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._items: dict[int, list[ImportItem]] = {}

    async def prepare(self, items: int, seed: int) -> None:
        self._items = {
            events: list(make_items(items, seed * len(EVENTS) + place, events=events))
            for place, events in enumerate(EVENTS)
        }

    async def once(self, service: Service, events: int) -> None:
        chunk = min(CHUNK_SESSIONS, _CHUNK_ITEMS_MAX // (1 + events))
        summary = await import_all(service.client, self._items[events], chunk_sessions=chunk)
        count = len(self._items[events])
        assert (count, count * events) == (summary.sessions.inserted, summary.events.inserted), summary

    async def check_round(self) -> None:
        items = [item for found in self._items.values() for item in found]
        sessions = [session_document(item.session, batch_id="", number=0) for item in items]
        check_stored(self.system.ours.sessions, sessions, but=PLACE)
        check_stored(self.system.ours.events, [event_document(event) for item in items for event in item.events])
        check_numbers(self.system.ours)
