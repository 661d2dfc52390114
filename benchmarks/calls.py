"""The contests of single calls.

Each side finds its input ready: our client models, the others messages or the documents that the service stores, with
their hashes. So checks, hashes and conversions are all on our bill.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import Any, ClassVar

from google.protobuf.message import Message

from benchmarks import by_hand
from benchmarks.contest import EMPTY, ONE_BY_ONE, OUR_CLIENT, Contest, Contestant
from benchmarks.fill import Filled, fill
from benchmarks.loads import IN_FLIGHT, check_numbers, check_stored, in_flight
from benchmarks.marks import at_least, at_most_ms
from benchmarks.stored import Document, event_document, session_document
from benchmarks.system import DIRECT, PLAIN, Empty, Service, System
from benchmarks.workload import EVENTS_PER_CALL, EVENTS_PER_SESSION, events
from benchmarks.workload import items as make_items
from clickstream import ClickstreamClient, Session, SessionEvent, WriteOutcome, wire
from clickstream.v1 import clickstream_service_pb2 as pb

PLACE = ("batch_id", "registered_at", "session_number")
"""What differs between one's sessions and another's."""


class _Calls(Contest):
    """A contest of calls, with those of the servers that do nothing."""

    rpc: ClassVar[str]
    callers: ClassVar[int] = IN_FLIGHT

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._requests: Sequence[Message] = ()

    def empties(self) -> list[Contestant]:
        """Servers that do nothing, called by gRPC's own stub with ready messages, and by our client."""
        empty, one_by_one = self.system.empty_servers
        return [
            Contestant(EMPTY, lambda: self._empty(empty), empty.pid),
            Contestant(ONE_BY_ONE, lambda: self._empty(one_by_one), one_by_one.pid),
            Contestant(OUR_CLIENT, lambda: self.through(empty.client), empty.pid),
        ]

    async def _empty(self, server: Empty) -> list[float]:
        return await in_flight(getattr(server.stub, self.rpc), self._requests, callers=self.callers)

    @abstractmethod
    async def through(self, client: ClickstreamClient) -> list[float]:
        """Make the calls through this client of ours, whatever is answered."""


class Register(_Calls):
    """`client.register_session()`, 64 in flight."""

    name = "register"
    rpc = "RegisterSession"
    unit = "sessions"
    items: ClassVar[int] = 4_000
    quick_items: ClassVar[int] = 600
    marks = (at_least(0.6, EMPTY), at_least(4, PLAIN))

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._sessions: list[Session] = []
        self._documents: list[Document] = []

    async def prepare(self, items: int, seed: int) -> None:
        self._sessions = [item.session for item in make_items(items, seed)]
        self._documents = [session_document(session, batch_id="", number=0) for session in self._sessions]
        self._requests = [pb.RegisterSessionRequest(session=wire.session_to_pb(found)) for found in self._sessions]

    async def clickstream(self, service: Service) -> list[float]:
        async def call(session: Session) -> None:
            done = await service.client.register_session(session)
            assert done.outcome is WriteOutcome.INSERTED

        return await in_flight(call, self._sessions)

    def others(self) -> list[Contestant]:
        plain = self.system.database(PLAIN)
        by_hand.open_batch(plain)
        return [
            Contestant(PLAIN, lambda: self._plain(plain), database=plain),
            *self.empties(),
        ]

    async def _plain(self, database: Any) -> None:
        await asyncio.to_thread(
            by_hand.in_threads, lambda document: by_hand.register_plainly(database, document), self._documents
        )

    async def through(self, client: ClickstreamClient) -> list[float]:
        return await in_flight(client.register_session, self._sessions)

    async def check(self, database: Any) -> None:
        check_stored(database.sessions, self._documents, but=PLACE)
        check_numbers(database)


class RegisterOne(Register):
    """`client.register_session()`, one at a time."""

    name = "register-one"
    callers = 1
    items: ClassVar[int] = 400
    quick_items: ClassVar[int] = 60
    in_ms = True
    marks = (at_most_ms(0.5, [DIRECT, EMPTY]),)

    async def clickstream(self, service: Service) -> list[float]:
        return await in_flight(service.client.register_session, self._sessions, callers=self.callers)

    def others(self) -> list[Contestant]:
        direct = self.system.database(DIRECT)
        by_hand.open_batch(direct)
        return [
            Contestant(DIRECT, lambda: self._direct(direct), database=direct),
            *self.empties()[:2],
        ]

    async def _direct(self, database: Any) -> list[float]:
        took = []
        for document in self._documents:
            began = perf_counter()
            by_hand.register_in_transaction(database, document)
            took.append(perf_counter() - began)
        return took


class PushEvents(_Calls):
    """`client.push_events()` of ten events, 64 calls in flight."""

    name = "push-events"
    rpc = "PushEvents"
    unit = "calls"
    items: ClassVar[int] = 3_000
    quick_items: ClassVar[int] = 400
    marks = (at_least(0.5, EMPTY), at_least(3, PLAIN))

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._calls: list[Sequence[SessionEvent]] = []
        self._documents: list[list[Document]] = []

    async def prepare(self, items: int, seed: int) -> None:
        made = list(events(items * EVENTS_PER_CALL, seed))
        self._calls = [made[at : at + EVENTS_PER_CALL] for at in range(0, len(made), EVENTS_PER_CALL)]
        self._documents = [list(map(event_document, call)) for call in self._calls]
        self._requests = [pb.PushEventsRequest(events=map(wire.event_to_pb, call)) for call in self._calls]

    async def clickstream(self, service: Service) -> list[float]:
        async def call(pushed: Sequence[SessionEvent]) -> None:
            assert (await service.client.push_events(pushed)).inserted == EVENTS_PER_CALL

        return await in_flight(call, self._calls)

    def others(self) -> list[Contestant]:
        direct, plain = map(self.system.database, (DIRECT, PLAIN))
        return [
            Contestant(PLAIN, lambda: self._plain(plain.events), database=plain),
            Contestant(DIRECT, lambda: self._direct(direct.events), database=direct),
            *self.empties(),
        ]

    async def _plain(self, collection: Any) -> None:
        """Every event by itself."""

        def push(documents: list[Document]) -> None:
            for document in documents:
                collection.insert_one(document)

        await asyncio.to_thread(by_hand.in_threads, push, self._documents)

    async def _direct(self, collection: Any) -> None:
        """Ten at once, too."""
        await asyncio.to_thread(
            by_hand.in_threads, lambda documents: collection.insert_many(documents, ordered=False), self._documents
        )

    async def through(self, client: ClickstreamClient) -> list[float]:
        return await in_flight(client.push_events, self._calls)

    async def check(self, database: Any) -> None:
        check_stored(database.events, [document for documents in self._documents for document in documents])


class GetSession(_Calls):
    """`client.get_session()` of sessions with ten results and five events, 64 in flight."""

    name = "get-session"
    rpc = "GetSession"
    unit = "sessions"
    items: ClassVar[int] = 4_000
    quick_items: ClassVar[int] = 600
    marks = (at_least(0.5, EMPTY),)

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self.filled: dict[str, Filled] = {}
        self._ids: dict[str, list[str]] = {}

    async def prepare(self, items: int, seed: int) -> None:
        for service in self.system.services:
            if service.name not in self.filled:
                self.filled[service.name] = await asyncio.to_thread(fill, service.database, self.stored)
            self._ids[service.name] = self.filled[service.name].some_ids(items, seed)
        self._requests = [pb.GetSessionRequest(session_id=found) for found in self._ids[self.system.services[0].name]]

    @property
    def stored(self) -> int:
        """How many sessions there are to be read."""
        return self.items

    async def clickstream(self, service: Service) -> list[float]:
        async def call(session_id: str) -> None:
            found = await service.client.get_session(session_id)
            assert found is not None
            assert (session_id, EVENTS_PER_SESSION) == (found.session.session_id, len(found.events))

        return await in_flight(call, self._ids[service.name])

    def others(self) -> list[Contestant]:
        return [
            Contestant(PLAIN, self._plain),
            *self.empties(),
        ]

    async def _plain(self) -> None:
        def read(session_id: str) -> None:
            assert len(by_hand.read_plainly(self.system.ours, session_id)["events"]) == EVENTS_PER_SESSION

        await asyncio.to_thread(by_hand.in_threads, read, self._ids[self.system.services[0].name])

    async def through(self, client: ClickstreamClient) -> list[float]:
        return await in_flight(client.get_session, self._ids[self.system.services[0].name])
