"""The contests of streams that read: batches whose sessions have ten results and five events each."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import ClassVar

from benchmarks import by_hand
from benchmarks.contest import Contest, Contestant
from benchmarks.fill import Filled, fill, session_id
from benchmarks.marks import at_least
from benchmarks.system import DIRECT, PLAIN, Service, System, run_module
from benchmarks.workload import EVENTS_PER_SESSION

_TRAILER = b'{"trailer":'


class _OfABatch(Contest):
    """Everyone reads all of one batch. The first service's database is also read by hand."""

    items: ClassVar[int] = 200_000
    rounds: ClassVar[int] = 3

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self.filled: dict[str, Filled] = {}
        self.wanted = 0

    async def prepare(self, items: int, seed: int) -> None:  # noqa: ARG002  # they are only read
        if self.wanted == items or self.system.keeps:
            return
        await self.system.clear()
        self.wanted = items
        for service in self.system.services:
            self.filled[service.name] = await asyncio.to_thread(fill, service.database, items)

    def batch_id(self, service: Service) -> str:
        return self.filled[service.name].batch_ids[-1]


class GetBatch(_OfABatch):
    """`client.get_batch_pages()` to models, against the same by hand to dicts, and against a query a session."""

    name = "get-batch"
    unit = "sessions"
    quick_items: ClassVar[int] = 5_000
    marks = (at_least(0.6, DIRECT), at_least(15, PLAIN))
    _PLAIN_SHARE = 10

    async def clickstream(self, service: Service) -> None:
        numbers, events = [], 0
        async for page in service.client.get_batch_pages(self.batch_id(service)):
            numbers += [found.session_number for found in page.sessions]
            events += sum(len(found.events) for found in page.sessions)
        self._check_read(numbers, events)

    def others(self) -> list[Contestant]:
        return [Contestant(DIRECT, self._direct), Contestant(PLAIN, self._plain, share=1 / self._PLAIN_SHARE)]

    async def _direct(self) -> None:
        numbers, events = [], 0
        for page in by_hand.pages_of_batch(self.system.ours, self.batch_id(self.system.services[0])):
            numbers += [session["session_number"] for session in page]
            events += sum(len(session["events"]) for session in page)
        self._check_read(numbers, events)

    def _check_read(self, numbers: list[int], events: int) -> None:
        assert numbers == list(range(1, self.wanted + 1)), "a session is missing, doubled or out of order"
        assert events == self.wanted * EVENTS_PER_SESSION, events

    async def _plain(self) -> None:
        """A tenth of them: it takes very long, and no session is slower to read than another."""

        def read(place: int) -> None:
            assert len(by_hand.read_plainly(self.system.ours, session_id(place))["events"]) == EVENTS_PER_SESSION

        await asyncio.to_thread(by_hand.in_threads, read, range(self.wanted // self._PLAIN_SHARE))


class Export(_OfABatch):
    """`clickstream export` to JSON Lines, against a script that writes the same lines: two programs, each from start
    to end.
    """

    name = "export"
    unit = "sessions"
    quick_items: ClassVar[int] = 5_000
    marks = (at_least(0.6, DIRECT),)

    async def clickstream(self, service: Service) -> None:
        program = ("clickstream_server", "export", "--target", service.client.target)
        await self._run(service.name, *program, "--batch", self.batch_id(service))

    def others(self) -> list[Contestant]:
        return [Contestant(DIRECT, self._direct)]

    async def _direct(self) -> None:
        database, batch = self.system.ours.name, self.batch_id(self.system.services[0])
        await self._run(DIRECT, "benchmarks.export_by_hand", self.system.uri, database, batch)

    def _file(self, name: str) -> Path:
        return self.system.folder / f"{name}.jsonl"

    async def _run(self, name: str, *module_and_arguments: str) -> None:
        output = ("--output", str(self._file(name)))
        code, _, said = await run_module(*module_and_arguments, *output, stderr=asyncio.subprocess.PIPE)
        assert code == 0, said.decode()

    async def check_round(self) -> None:
        """Fail unless all files hold the same lines, but for the trailer, which the script leaves out."""
        digests = set()
        for contestant in self.contestants():
            with self._file(contestant.name).open("rb") as lines:
                sessions = [line for line in lines if not line.startswith(_TRAILER)]
            assert self.wanted == len(sessions), (contestant.name, len(sessions))
            digests.add(hashlib.sha256(b"".join(sessions)).digest())
        assert len(digests) == 1 or self.system.keeps, "the files differ"
