"""A follower that falls behind by everything, and catches up: what does that cost the server and the reader?

As a program (`python -m benchmarks.behind TARGET BATCH`) it is that follower. It reads what comes first, says so, waits
for a line, reads to the end, and waits again; it fails unless every number came once, in order.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.loads import CHUNK_SESSIONS
from benchmarks.memory import Growth, Watch
from benchmarks.system import System
from clickstream import ClickstreamClient, ImportChunk, ImportConfig, ImportItem, ImportSummary, Session
from clickstream_server.embedded import die_with_parent

NAME = "behind"
ITEMS = 1_000_000
_SAY_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How long the follower took for what it had missed, and the memory of all while it stood still and after."""

    sessions: int
    import_s: float
    catching_up_s: float
    memory: list[Growth]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def run_behind(system: System, *, sessions: int, progress: Callable[[str], None]) -> CaughtUp:
    """Import so many sessions while a follower of their batch does not read, release, and let it catch up."""
    first = (await system.client.register_session(Session(session_id="first"))).session
    async with _follower(system.client.target, first.batch_id) as follower:
        assert await _told(follower) == 1
        pids = {"server": system.pids["server"], "follower": follower.pid}
        loop = asyncio.get_running_loop()
        began = loop.time()
        standing = Watch(pids, sessions)
        async with standing.running():
            await _import(system.client, standing, progress)
        await system.client.release_batch("behind")
        imported = loop.time()
        reading = Watch(pids, sessions)
        async with reading.running():
            _tell(follower)
            while reading.through <= sessions:
                reading.passed(await _told(follower), "read", progress)
        done = loop.time()
        _tell(follower)
        assert await follower.wait() == 0
    memory = [*standing.growth("import, the follower stands still"), *reading.growth("the follower catches up")]
    return CaughtUp(sessions, imported - began, done - imported, memory)


async def _import(client: ClickstreamClient, watch: Watch, progress: Callable[[str], None]) -> None:
    """Plain sessions, without results and events: it is their number that matters here."""

    async def chunks() -> AsyncIterator[ImportChunk]:
        for sequence, start in enumerate(range(0, watch.total, CHUNK_SESSIONS), start=1):
            numbers = range(start, min(start + CHUNK_SESSIONS, watch.total))
            made = [Session(session_id=f"s-{number}", search_query=f"query {number}") for number in numbers]
            yield ImportChunk(sequence, [ImportItem(session) for session in made])

    answer = None
    async for answer in client.import_sessions(ImportConfig(import_id=NAME), chunks()):
        watch.passed(answer.processed, "imported", progress)
    assert isinstance(answer, ImportSummary)
    assert answer.sessions.inserted == watch.total, answer


@asynccontextmanager
async def _follower(target: str, batch_id: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, target, batch_id),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent(),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _told(follower: asyncio.subprocess.Process) -> int:
    """The last number that it read, when it says so next."""
    assert follower.stdout is not None
    return int(await follower.stdout.readline())


def _tell(follower: asyncio.subprocess.Process) -> None:
    """Let it go on."""
    assert follower.stdin is not None
    follower.stdin.write(b"go on\n")


async def _follow(target: str, batch_id: str) -> None:
    loop = asyncio.get_running_loop()
    last, sealed = 0, False
    async with (
        ClickstreamClient(target) as client,
        aclosing(client.get_batch_pages(batch_id, follow=True)) as pages,
    ):
        async for page in pages:
            numbers = [found.session_number for found in page.sessions]
            assert numbers == list(range(last + 1, last + 1 + len(numbers)))
            before, last, sealed = last, page.last_number, page.sealed
            if before // _SAY_EVERY < last // _SAY_EVERY or not before or sealed:
                print(last, flush=True)
            if not before or sealed:
                await loop.run_in_executor(None, sys.stdin.readline)
    assert sealed


if __name__ == "__main__":
    asyncio.run(_follow(*sys.argv[1:]))
