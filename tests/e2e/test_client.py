"""The client against servers that answer, fall silent, die and come back."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from clickstream import (
    Cancelled,
    ClickstreamClient,
    ClickstreamError,
    DeadlineExceeded,
    Session,
    SessionBatchStatus,
    SessionEvent,
    SyncClickstreamClient,
    Unavailable,
)
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import (
    ClickstreamServiceServicer,
    add_ClickstreamServiceServicer_to_server,
)
from harness import ServerProcess, eventually, served

Call = Callable[[ClickstreamClient], Awaitable[Any]]


async def _read(client: ClickstreamClient, batch_id: str, **options: Any) -> list[int]:
    async with aclosing(client.get_batch_sessions(batch_id, **options)) as sessions:
        return [found.session_number async for found in sessions]


CALLS: dict[str, Call] = {
    "register_session": lambda client: client.register_session(Session(session_id="s")),
    "update_session": lambda client: client.update_session(Session(session_id="s")),
    "push_events": lambda client: client.push_events([SessionEvent(session_id="s", event_id="e", object_id="o")]),
    "mark_session_irrelevant": lambda client: client.mark_session_irrelevant("s"),
    "get_session": lambda client: client.get_session("s"),
    "get_batch_pages": lambda client: _read(client, "b"),
    "get_batch": lambda client: client.get_batch("b"),
    "list_batches": lambda client: client.list_batches(),
    "release_batch": lambda client: client.release_batch("r"),
    "update_batch_status": lambda client: client.update_batch_status("b", SessionBatchStatus.COMPLETED),
}


def test_every_method_is_called_here() -> None:
    """The calls of this file are all of the interface's."""
    assert ClickstreamClient.__abstractmethods__ == frozenset()
    assert ClickstreamClient.__mro__[1].__abstractmethods__ == set(CALLS)


# --- deadlines ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def silent_listener(accepted: list[Any] | None = None) -> AsyncIterator[str]:
    """Something that accepts connections, which it adds to the given ones, and never says anything."""
    writers: list[Any] = [] if accepted is None else accepted
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_has_a_deadline(name: str) -> None:
    """A call to something that never answers ends by itself."""
    async with (
        silent_listener() as address,
        ClickstreamClient(address, deadline_s=0.3, stream_deadline_s=0.3) as client,
    ):
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await asyncio.wait_for(CALLS[name](client), timeout=30)


@pytest.mark.parametrize("name", ["deadline_s", "stream_deadline_s", "stream_resume_s"])
@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e10, 0, -1])
def test_what_is_no_deadline_is_refused(name: str, seconds: float) -> None:
    """A deadline that gRPC would take for one that is over raises ValueError; patience may be none, or endless."""
    if name == "stream_resume_s" and seconds >= 0:
        ClickstreamClient(stream_resume_s=seconds)
        return
    for kind in (ClickstreamClient, SyncClickstreamClient):
        with pytest.raises(ValueError, match=name):
            kind(**{name: seconds})


async def test_a_frozen_server_is_a_deadline(mongodb_uri: str, database: str) -> None:
    """A call to a server that is frozen in the middle ends as DeadlineExceeded, and works again after that."""
    server = await ServerProcess.start(mongodb_uri=mongodb_uri, mongodb_database=database)
    async with ClickstreamClient(server.address, deadline_s=0.5) as client:
        await eventually(lambda: _works(client), "a first call")
        server.signal(signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded) as raised:
            await client.register_session(Session(session_id="s"))
        server.signal(signal.SIGCONT)

        assert grpc.StatusCode.DEADLINE_EXCEEDED is raised.value.code
        await eventually(lambda: _works(client), "a call after that")
    assert 0 == await server.stop()


async def _works(client: ClickstreamClient) -> bool:
    try:
        await client.list_batches()
    except ClickstreamError:
        return False
    return True


async def test_nobody_there_is_unavailable() -> None:
    """A call to a port where nobody listens ends as Unavailable."""
    async with silent_listener() as address:
        pass
    async with ClickstreamClient(address) as client:
        with pytest.raises(Unavailable):
            await client.list_batches()


# --- a server that dies and comes back ------------------------------------------------------------------------------


class Restarting:
    """A server process that can die and come back on its port."""

    def __init__(self, mongodb_uri: str, database: str) -> None:
        self._settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
        self.address = ""

    async def start(self) -> None:
        self.process = await ServerProcess.start(listen=self.address or "127.0.0.1:0", **self._settings)
        self.address = self.process.address

    async def kill_and_restart(self) -> None:
        await self.process.kill()
        await self.start()


@pytest.fixture
async def server(mongodb_uri: str, database: str) -> AsyncIterator[Restarting]:
    server = Restarting(mongodb_uri, database)
    await server.start()
    yield server
    await server.process.stop()


async def fill(client: ClickstreamClient, count: int, prefix: str = "s") -> str:
    """Register so many sessions that are large enough to keep a stream busy; return their batch."""
    query = "x" * 20_000
    done = await asyncio.gather(
        *(client.register_session(Session(session_id=f"{prefix}{n}", search_query=query)) for n in range(count))
    )
    return done[0].session.batch_id


async def test_calls_go_on_after_a_restart(server: Restarting) -> None:
    """The same client works again after its server was killed and came back on the same port."""
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="a"))
        await server.kill_and_restart()

        async def registered() -> int:
            try:
                return (await client.register_session(Session(session_id="b"))).session.session_number
            except Unavailable:
                return 0

        assert 2 == await eventually(registered, "a registration after the restart")


async def test_a_lost_connection_is_tried_again(server: Restarting) -> None:
    """A call on a connection whose server was replaced succeeds without an error."""
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="a"))
        await server.kill_and_restart()

        assert 2 == (await client.register_session(Session(session_id="b"))).session.session_number


@pytest.mark.parametrize("how", ["killed", "drained"])
@pytest.mark.parametrize("limit", [0, 450])
async def test_a_broken_stream_goes_on(server: Restarting, how: str, limit: int) -> None:
    """A reader whose server goes away and comes back in mid-stream loses nothing and gets nothing twice."""
    async with ClickstreamClient(server.address) as client:
        batch_id = await fill(client, 600)
        numbers = []
        async with aclosing(client.get_batch_sessions(batch_id, after_number=10, limit=limit)) as sessions:
            async for found in sessions:
                numbers.append(found.session_number)
                if len(numbers) == 20:
                    if how == "drained":
                        await server.process.stop()
                    await server.kill_and_restart()

    assert list(range(11, 11 + limit if limit else 601)) == numbers


async def test_a_follower_goes_on(server: Restarting) -> None:
    """A follower whose server is killed and comes back sees what is registered after that, once, to the seal."""
    async with ClickstreamClient(server.address) as client:
        await fill(client, 50)
        numbers = []

        async def follow() -> None:
            async with aclosing(client.get_batch_pages("", follow=True)) as pages:
                async for page in pages:
                    numbers.extend(found.session_number for found in page.sessions)

        async def caught_up() -> bool:
            return len(numbers) >= 50

        following = asyncio.create_task(follow())
        await eventually(caught_up, "the follower has caught up")
        await server.kill_and_restart()
        await eventually(lambda: _works(client), "the server is back")
        await fill(client, 50, prefix="later")
        await client.release_batch("r")
        async with asyncio.timeout(30):
            await following

    assert list(range(1, 101)) == numbers


async def test_a_stream_gives_up_in_the_end(server: Restarting) -> None:
    """A reader whose server does not come back raises Unavailable once its patience is over."""
    async with ClickstreamClient(server.address, stream_resume_s=0.5) as client:
        batch_id = await fill(client, 600)
        async with aclosing(client.get_batch_pages(batch_id)) as pages:
            await anext(pages)
            await server.process.kill()
            with pytest.raises(Unavailable):
                async with asyncio.timeout(30):
                    await _drain(pages)
    await server.start()  # for the fixture


async def _drain(pages: AsyncIterator[Any]) -> None:
    async for _ in pages:
        pass


class Stopping(ClickstreamServiceServicer):
    """Ends the first call of each kind as gRPC does when it comes just as the server stops, and answers the next."""

    def __init__(self) -> None:
        self._ended: set[str] = set()

    async def _end_the_first(self, method: str, context: Any) -> None:
        if method not in self._ended:
            self._ended.add(method)
            await context.abort(grpc.StatusCode.CANCELLED, "")

    async def ListBatches(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._end_the_first("ListBatches", context)
        return pb.ListBatchesResponse(next_page_token="found")

    async def GetBatchSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not request.after_number:
            yield pb.GetBatchSessionsResponse(last_number=1)
            await self._end_the_first("GetBatchSessions", context)
        yield pb.GetBatchSessionsResponse(last_number=2)


async def test_a_call_that_comes_just_as_the_server_stops_is_made_again() -> None:
    """What gRPC ends as CANCELLED, though nobody cancelled it, is tried again like UNAVAILABLE, calls and streams."""
    server = grpc.aio.server()
    add_ClickstreamServiceServicer_to_server(Stopping(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with ClickstreamClient(f"127.0.0.1:{port}") as client:
            assert "found" == (await client.list_batches()).next_page_token
            assert [1, 2] == [page.last_number async for page in client.get_batch_pages("b")]
    finally:
        await server.stop(0)


# --- iterators ------------------------------------------------------------------------------------------------------


async def test_an_abandoned_iterator_leaves_nothing_behind(mongodb_uri: str, database: str) -> None:
    """After iterators are broken off no task of theirs runs on, and the client goes on working."""
    async with served(mongodb_uri, database) as client:
        batch_id = await fill(client, 300)
        assert [1] == await _first(client, batch_id)
        tasks = len(asyncio.all_tasks())
        for _ in range(5):
            assert [1] == await _first(client, batch_id)
            assert [1] == await _first(client, batch_id, follow=True)
        gc.collect()

        async def settled() -> bool:
            return len(asyncio.all_tasks()) <= tasks

        await eventually(settled, "the tasks of the iterators are gone")
        assert list(range(1, 301)) == await _read(client, batch_id)


async def _first(client: ClickstreamClient, batch_id: str, **options: Any) -> list[int]:
    """Break off after the first, as someone does who does not know of aclosing."""
    async for found in client.get_batch_sessions(batch_id, **options):
        return [found.session_number]
    return []


# --- the end --------------------------------------------------------------------------------------------------------


async def test_closing_twice_does_no_harm(mongodb_uri: str, database: str) -> None:
    """A client may be closed twice, before its first call, and a call after that is Cancelled."""
    async with served(mongodb_uri, database) as served_client:
        unused = ClickstreamClient(served_client.target)
        await unused.close()
        await unused.close()
        for call in CALLS.values():
            with pytest.raises(Cancelled):
                await call(unused)
        assert "_channel" not in vars(unused)
        client = ClickstreamClient(served_client.target)
        await client.list_batches()
        await client.close()
        await client.close()
        for name in ("list_batches", "get_batch_pages"):
            with pytest.raises(Cancelled):
                await CALLS[name](client)


async def test_closing_ends_calls_that_run() -> None:
    """A call that waits for an answer when its client is closed ends as Cancelled."""
    accepted: list[Any] = []

    async def connected() -> bool:
        return bool(accepted)

    async with silent_listener(accepted) as address:
        client = ClickstreamClient(address, deadline_s=60)
        calls = [asyncio.create_task(client.list_batches()), asyncio.create_task(_read(client, "b"))]
        await eventually(connected, "both are on their way")
        await client.close()
        await asyncio.wait(calls, timeout=30)

    assert [False, False] == [call.cancelled() for call in calls]
    assert [Cancelled, Cancelled] == [type(call.exception()) for call in calls]
