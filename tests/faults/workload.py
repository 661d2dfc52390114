"""Writers, readers and releases on several servers at once, which record what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TypeVar

from faults.checker import INSERTED, Event, History, Place, Reading, Release, Write

from clickstream import (
    ClickstreamClient,
    DeadlineExceeded,
    NoCollectingBatch,
    Overloaded,
    RegisteredSession,
    Session,
    SessionBatchStatus,
    SessionEvent,
    SessionPage,
    Unavailable,
    WriteOutcome,
)
from clickstream.values import micros_from_datetime

T = TypeVar("T")
AWAY = (Unavailable, DeadlineExceeded, Overloaded)
"""What a careful client makes a call again for."""
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Workload:
    """What goes on over these clients, each of one server, and the history of it."""

    def __init__(self, clients: Sequence[ClickstreamClient]) -> None:
        self.clients = clients
        self.history = History()
        self._finished = asyncio.Event()

    async def run(self, writers: int, sessions_each: int, disturb: Callable[[], Awaitable[None]]) -> History:
        """Write, disturb and read at the same time; at the end release what collects, and let the readers finish."""
        async with asyncio.TaskGroup() as readers:
            for place, client in enumerate(self.clients):
                readers.create_task(self._follow(f"follower {place}", client))
                readers.create_task(self._tail(f"tail {place}", client))
            async with asyncio.TaskGroup() as work:
                for writer in range(writers):
                    work.create_task(self._write(writer, sessions_each))
                work.create_task(disturb())
            await self.release("the end", self.clients[0])
            self._finished.set()
        return self.history

    async def until_acknowledged(self, sessions: int) -> None:
        """Wait until that many writes were acknowledged."""
        while len(self.history.writes) < sessions:  # noqa: ASYNC110  # it grows by itself
            await asyncio.sleep(0.005)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _write(self, writer: int, count: int) -> None:
        for number in range(count):
            await self._write_session(writer, number)

    async def _write_session(self, writer: int, number: int) -> None:
        """Register, click and update. Every third session goes to all servers at once, every fourth is sent again."""
        session_id = f"s-{writer}-{number}"
        here = self.clients[(writer + number) % len(self.clients)]
        if number % 3 == 0:
            await asyncio.gather(*(self._register(session_id, f"by {at}", at) for at in range(len(self.clients))))
        else:
            await self._register(session_id, "first", self.clients.index(here))
        if number % 4 == 0:
            await self._register(session_id, "again", writer % len(self.clients))
        await self._push(session_id, here)
        if number % 5 == 0:
            await self._update(session_id, f"update {number}", here)

    async def _register(self, session_id: str, content: str, at: int) -> None:
        session = Session(session_id=session_id, search_query=content)
        asked_at = monotonic()
        done = await self._insisting(lambda client: client.register_session(session), self.clients[at])
        self._wrote(content, done.session, asked_at, done.outcome)

    async def _update(self, session_id: str, content: str, client: ClickstreamClient) -> None:
        session = Session(session_id=session_id, search_query=content)
        asked_at = monotonic()
        done = await self._insisting(lambda client: client.update_session(session), client)
        self._wrote(content, done, asked_at, None)

    def _wrote(self, content: str, answer: RegisteredSession, asked_at: float, outcome: WriteOutcome | None) -> None:
        place = Place(answer.batch_id, answer.session_number)
        self.history.writes.append(
            Write(
                answer.session.session_id,
                content,
                place,
                asked_at,
                answered_at=monotonic(),
                outcome=outcome or INSERTED,
                update=outcome is None,
            )
        )

    async def _push(self, session_id: str, client: ClickstreamClient) -> None:
        """Two events with ids and one without, one of them twice in the call, and the whole call on all servers."""
        created_at = LONG_AGO + timedelta(seconds=len(self.history.events))
        events = [
            SessionEvent(session_id=session_id, event_id=event_id, object_id=f"o{event_id}", created_at=created_at)
            for event_id in ("1", "2", "", "1")
        ]
        results = await asyncio.gather(
            *(self._insisting(lambda client: client.push_events(events), client) for client in self.clients)
        )
        assert [4] * len(self.clients) == [result.inserted + result.duplicates for result in results]
        self.history.events += [
            Event(event.session_id, event.event_id, ("click", event.object_id, micros_from_datetime(created_at)))
            for event in events
        ]

    async def release(self, release_id: str, *clients: ClickstreamClient) -> None:
        """Release what collects, under the same key through all of these at once."""
        await asyncio.gather(*(self._release(release_id, client) for client in clients))

    async def _release(self, release_id: str, client: ClickstreamClient) -> None:
        done = await self._insisting(lambda client: client.release_batch(release_id), client)
        self.history.releases.append(
            Release(release_id, done.batch.batch_id, done.batch.session_counter, done.already_released, monotonic())
        )

    async def _insisting(self, call: Callable[[ClickstreamClient], Awaitable[T]], first: ClickstreamClient) -> T:
        """Make the call, again on the next server while there is no answer, as a careful producer does."""
        for turn in range(self.clients.index(first), 100):
            try:
                return await call(self.clients[turn % len(self.clients)])
            except AWAY:
                continue
        raise AssertionError("no server answered in a hundred calls")

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _follow(self, reader: str, client: ClickstreamClient) -> None:
        """Follow the batch that collects to its seal, then the next, until all is finished."""
        while not self._finished.is_set():
            reading = Reading(reader)
            try:
                async with aclosing(client.get_batch_pages("", follow=True)) as pages:
                    async for page in pages:
                        self._note(reading, page)
            except NoCollectingBatch:
                await asyncio.sleep(0.01)
            except AWAY:
                pass  # before the first page came, or for longer than the client goes on trying
            if reading.seen:
                self.history.readings.append(reading)

    async def _tail(self, reader: str, client: ClickstreamClient) -> None:
        """The same in short reads, each after the last number of the one before."""
        while not self._finished.is_set():
            try:
                collecting = (await client.list_batches(statuses=[SessionBatchStatus.COLLECTING])).batches
            except AWAY:
                continue
            if not collecting:
                await asyncio.sleep(0.01)
                continue
            reading = Reading(reader, batch_id=collecting[0].batch_id)
            self.history.readings.append(reading)
            while not reading.sealed:
                await self._read_on(reading, client)

    async def _read_on(self, reading: Reading, client: ClickstreamClient) -> None:
        try:
            pages = client.get_batch_pages(reading.batch_id, after_number=reading.last_number)
            async with aclosing(pages):
                async for page in pages:
                    self._note(reading, page)
        except AWAY:
            pass  # and on, after the last number that came

    def _note(self, reading: Reading, page: SessionPage) -> None:
        for found in page.sessions:
            reading.batch_id = reading.batch_id or found.batch_id
            assert reading.batch_id == found.batch_id
            reading.seen.append((found.session_number, found.session.session_id))
        reading.last_number = page.last_number
        reading.sealed = page.sealed
