"""Everything that clients do, at the same time, for as long as something is being broken."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import count, cycle, islice, pairwise
from time import monotonic
from typing import TypeVar

from faults.checker import Asked, Event, History, Place, Reading, Write
from faults.workload import AWAY, LONG_AGO, Workload

from clickstream import (
    ClickstreamClient,
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    Session,
    SessionEvent,
    SessionPage,
)
from clickstream.values import micros_from_datetime
from harness import eventually, start_program

T = TypeVar("T")

CALLS, STREAMS, IMPORTS, READERS, FOLLOWERS = KINDS = ("calls", "streams", "imports", "readers", "followers")
PATIENCE_S = 180.0
"""How long a call is repeated, and progress awaited, before the test fails."""
TAIL = "clickstream tail"
_NOT_YET = ("nobody answers", "NO_COLLECTING_BATCH", "UNAVAILABLE", "SHUTTING_DOWN", "DEADLINE_EXCEEDED", "OVERLOADED")
"""What a tail that has not begun may end with."""
_WRITERS = 4
_THINK_S = 0.02
"""Between two steps of one client. Without, MongoDB's members get too little of the processor to hear of each other."""
_CHUNK_SESSIONS = 10
_STREAMED = 20


class MixedLoad(Workload):
    """Registrations, updates, pushes, event streams, imports, readers and followers, until `disturb` has ended.

    `answers`: when each kind of client last heard something that it waited for. `retries`: calls that were made again.
    """

    def __init__(self, clients: Sequence[ClickstreamClient]) -> None:
        super().__init__(clients)
        self.answers: defaultdict[str, list[float]] = defaultdict(list)
        self.retries = 0
        self._stopping = asyncio.Event()

    async def run_during(self, disturb: Callable[[], Awaitable[None]]) -> History:
        """Do everything until `disturb` has ended; then release what collects, and let the readers finish."""
        async with asyncio.TaskGroup() as readers:
            for place, client in enumerate(self.clients):
                readers.create_task(self._follow(f"follower {place}", client))
                readers.create_task(self._tail(f"reader {place}", client))
            readers.create_task(self._tail_program(self.clients[0]))
            async with asyncio.TaskGroup() as work:
                for writer in range(_WRITERS):
                    work.create_task(self._write_on(writer))
                work.create_task(self._write_once_each(self.clients[-1]))
                work.create_task(self._stream(self.clients[-1]))
                for atomicity, client in zip(ImportAtomicity, cycle(self.clients), strict=False):
                    work.create_task(self._import(atomicity, client))
                await disturb()
                self._stopping.set()
            await self.release("the end", self.clients[0])
            self._finished.set()
        return self.history

    async def goes_on(self, answers: int = 5) -> None:
        """Wait until every kind of client got so many more answers."""
        wanted = {kind: len(self.answers[kind]) + answers for kind in KINDS}

        async def came() -> bool:
            return all(len(self.answers[kind]) >= least for kind, least in wanted.items())

        await eventually(came, f"every one of {KINDS} goes on", PATIENCE_S)

    def longest_wait_s(self, since: float) -> dict[str, float]:
        """The longest time between two answers that did not end before `since`, by kind of client."""
        found = {}
        for kind, moments in self.answers.items():
            before = [moment for moment in moments if moment <= since]
            later = [*before[-1:], *(moment for moment in moments if moment > since)]
            found[kind] = max((after - moment for moment, after in pairwise(later)), default=0.0)
        return found

    def _answered(self, kind: str) -> None:
        self.answers[kind].append(monotonic())

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _insisting(self, call: Callable[[ClickstreamClient], Awaitable[T]], first: ClickstreamClient) -> T:
        give_up_at = monotonic() + PATIENCE_S
        for turn in count(self.clients.index(first)):
            try:
                done = await call(self.clients[turn % len(self.clients)])
            except AWAY:
                assert monotonic() < give_up_at, "the service never came back"
                self.retries += 1
            else:
                self._answered(CALLS)
                return done
        raise AssertionError("unreachable")

    async def _write_on(self, writer: int) -> None:
        for number in count():
            if self._stopping.is_set():
                return
            await self._write_session(writer, number)
            await asyncio.sleep(_THINK_S)

    async def _write_once_each(self, client: ClickstreamClient) -> None:
        """A hasty producer: what is not acknowledged in time is given up, and may be stored or not."""
        async with ClickstreamClient(client.target, deadline_s=1.0) as hasty:
            for number in count():
                if self._stopping.is_set():
                    return
                session = Session(session_id=f"hasty-{number}", search_query="once")
                event, sent = _event(session.session_id, number)
                asked_at = monotonic()
                try:
                    done = await hasty.register_session(session)
                    place = Place(done.session.batch_id, done.session.session_number)
                    self.history.writes.append(Write(session.session_id, "once", place, asked_at, monotonic()))
                    await hasty.push_events([event])
                    self.history.events.append(sent)
                except AWAY:
                    self.history.unanswered.append(Asked(session.session_id, "once"))
                    self.history.unanswered_events.append(sent)
                await asyncio.sleep(_THINK_S)

    async def _stream(self, client: ClickstreamClient) -> None:
        """One long stream of events; what is not acknowledged when it is given up goes into another one."""
        pending: list[tuple[SessionEvent, Event]] = []
        numbers = count()
        while not self._stopping.is_set():
            try:
                async with client.event_stream(batch_events=_STREAMED // 2) as stream:
                    while not self._stopping.is_set():
                        pending = pending or [_event(f"streamed-{n % 50}", n) for n in islice(numbers, _STREAMED)]
                        for event, _ in pending:
                            await stream.send(event)
                        await stream.flush()
                        assert [] == stream.failures
                        self.history.events += [sent for _, sent in pending]
                        pending = []
                        self._answered(STREAMS)
                        await asyncio.sleep(_THINK_S)
            except AWAY:
                self.retries += 1
        self.history.unanswered_events += [sent for _, sent in pending]

    async def _import(self, atomicity: ImportAtomicity, client: ClickstreamClient) -> None:
        """One long import; what is not acknowledged when it is given up goes into another one."""
        unacked: dict[int, list[ImportItem]] = {}
        sequences = count(1)

        async def chunks() -> AsyncIterator[ImportChunk]:
            for sequence, items in list(unacked.items()):
                yield ImportChunk(sequence, items)
            while not self._stopping.is_set():
                sequence = next(sequences)
                unacked[sequence] = [_item(f"{atomicity.name}-{sequence}-{n}") for n in range(_CHUNK_SESSIONS)]
                yield ImportChunk(sequence, unacked[sequence])
                await asyncio.sleep(_THINK_S * _CHUNK_SESSIONS)

        while unacked or not self._stopping.is_set():
            config = ImportConfig(import_id=f"by {atomicity.name}", atomicity=atomicity)
            try:
                async for answer in client.import_sessions(config, chunks()):
                    if not isinstance(answer, ImportProgress):
                        continue
                    assert () == answer.failures
                    for sequence in [known for known in unacked if known <= answer.acked_sequence]:
                        self._imported(unacked.pop(sequence))
                    self._answered(IMPORTS)
            except AWAY:
                self.retries += 1

    def _imported(self, items: list[ImportItem]) -> None:
        for item in items:
            self.history.imported.append(Asked(item.session.session_id, "imported"))
            self.history.events.append(_event(item.session.session_id, 0)[1])

    # --- reading ----------------------------------------------------------------------------------------------------

    def _note(self, reading: Reading, page: SessionPage) -> None:
        super()._note(reading, page)
        if page.sessions:
            self._answered(FOLLOWERS if reading.reader.startswith("follower") else READERS)

    async def _tail_program(self, client: ClickstreamClient) -> None:
        """`clickstream tail`, from one batch to the next."""
        while not self._finished.is_set():
            process = await start_program("tail", "--json", f"--target={client.target}")
            reading = Reading(TAIL)
            try:
                assert process.stdout is not None
                async for line in process.stdout:
                    found = json.loads(line)
                    reading.seen.append((found["session_number"], found["session"]["session_id"]))
                errors = (await process.communicate())[1].decode()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if process.returncode:  # nothing collects or nobody answers yet: later on a tail goes on by itself
                assert not reading.seen, errors
                assert any(reason in errors for reason in _NOT_YET), errors
                continue
            sealed = re.search(r"batch (\S+) is sealed; its last number is (\d+)$", errors)
            assert sealed is not None, errors
            reading.batch_id, reading.last_number, reading.sealed = sealed[1], int(sealed[2]), True
            self.history.readings.append(reading)


def _event(session_id: str, number: int) -> tuple[SessionEvent, Event]:
    """An event, and what the checker is to find of it."""
    created_at = LONG_AGO + timedelta(seconds=number)
    event = SessionEvent(session_id=session_id, event_id=f"x{number}", object_id="o", created_at=created_at)
    return event, Event(session_id, event.event_id, ("click", "o", micros_from_datetime(created_at)))


def _item(session_id: str) -> ImportItem:
    session = Session(session_id=session_id, search_query="imported", created_at=LONG_AGO)
    return ImportItem(session, [_event(session_id, 0)[0]])
