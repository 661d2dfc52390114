"""SyncClickstreamClient: what it has beyond the asynchronous client, over which the contract suite runs it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from clickstream import (
    Cancelled,
    ClickstreamClient,
    ImportChunk,
    ImportConfig,
    ImportItem,
    Session,
    SessionEvent,
    SyncClickstreamClient,
    SyncEventStream,
)
from harness import PATIENCE_S, ServerProcess, eventually, run_python, served

# --- the same methods -----------------------------------------------------------------------------------------------


def public_methods(of: type) -> dict[str, list[inspect.Parameter]]:
    return {
        name: [one.replace(annotation=None) for one in inspect.signature(method).parameters.values()]
        for name, method in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_the_methods_are_those_of_the_asynchronous_client() -> None:
    """Both clients have the same methods with the same parameters, and so have their event streams."""
    assert public_methods(ClickstreamClient) == public_methods(SyncClickstreamClient)


# --- threads --------------------------------------------------------------------------------------------------------


async def test_threads_share_a_client(mongodb_uri: str, database: str) -> None:
    """Calls of many threads over one client each get their own answer."""
    async with served(mongodb_uri, database) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client, ThreadPoolExecutor(16) as pool:

            def registered(number: int) -> tuple[str, int]:
                done = client.register_session(Session(session_id=f"s{number}")).session
                return done.session.session_id, done.session_number

            loop = asyncio.get_running_loop()
            found = await asyncio.gather(*(loop.run_in_executor(pool, registered, number) for number in range(200)))

    assert [f"s{number}" for number in range(200)] == [session_id for session_id, _ in found]
    assert set(range(1, 201)) == {number for _, number in found}


async def test_it_works_inside_a_running_loop(server: ServerProcess) -> None:
    """In a notebook, where an event loop runs already, calls and streams work and block."""
    with SyncClickstreamClient(server.address) as client:
        batch_id = client.register_session(Session(session_id="s")).session.batch_id

        assert ["s"] == [found.session.session_id for found in client.get_batch_sessions(batch_id)]


async def test_closing_ends_a_stream_that_waits(mongodb_uri: str, database: str) -> None:
    """A thread that waits for the next session gets Cancelled when another closes the client, and so do later calls."""
    async with served(mongodb_uri, database) as asynchronous:
        client = SyncClickstreamClient(asynchronous.target)
        await asynchronous.register_session(Session(session_id="s"))
        sessions = client.get_batch_sessions("", follow=True)
        await asyncio.to_thread(next, sessions)
        waiting = asyncio.ensure_future(asyncio.to_thread(next, sessions))
        await asyncio.to_thread(client.close)
        with pytest.raises(Cancelled):
            async with asyncio.timeout(PATIENCE_S):
                await waiting
        with pytest.raises(Cancelled):
            client.list_batches()
        client.close()


# --- streams --------------------------------------------------------------------------------------------------------


async def test_a_broken_stream_goes_on(mongodb_uri: str, database: str) -> None:
    """A reader whose server is killed and comes back in mid-stream loses nothing and gets nothing twice."""
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    with SyncClickstreamClient(server.address) as client:
        query = "x" * 20_000
        with ThreadPoolExecutor(16) as pool:
            sessions = [Session(session_id=f"s{number}", search_query=query) for number in range(600)]
            done = list(pool.map(client.register_session, sessions))
        numbers = []
        for found in client.get_batch_sessions(done[0].session.batch_id):
            numbers.append(found.session_number)
            if len(numbers) == 20:
                await server.kill()
                server = await ServerProcess.start(listen=server.address, **settings)
    await server.stop()

    assert list(range(1, 601)) == numbers


async def test_an_abandoned_iterator_ends_its_call(mongodb_uri: str, database: str) -> None:
    """After iterators are left half-way, nothing of their calls is left on the server, and the client works on."""
    async with served(mongodb_uri, database) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client:
            await asynchronous.register_session(Session(session_id="s"))

            def first() -> str:
                return next(client.get_batch_sessions("", follow=True)).session.session_id

            assert "s" == await asyncio.to_thread(first)
            tasks = len(asyncio.all_tasks())
            for _ in range(10):
                await asyncio.to_thread(first)

            async def settled() -> bool:
                return len(asyncio.all_tasks()) <= tasks

            await eventually(settled, "the handlers of the calls are gone")
            assert "s" == await asyncio.to_thread(first)


async def test_an_event_stream_stores_what_threads_send(mongodb_uri: str, database: str) -> None:
    """Events that several threads send are durable when the context is left, and failures are told."""
    async with served(mongodb_uri, database) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client:

            def produce() -> SyncEventStream:
                with client.event_stream(batch_events=10) as stream, ThreadPoolExecutor(4) as pool:
                    events = [SessionEvent(session_id="s", event_id=str(number), object_id="o") for number in range(95)]
                    list(pool.map(stream.send, [*events, SessionEvent(session_id="s", event_id="bad")]))
                    stream.flush()
                return stream

            stream = await asyncio.to_thread(produce)

    assert (95, 1) == (stream.totals.inserted, stream.totals.rejected)
    assert ["bad"] == [event.event_id for event, _ in stream.failures]


async def test_an_error_of_the_chunks_comes_out(mongodb_uri: str, database: str) -> None:
    """What the iterable of an import raises ends the import with that error, and the iterable is closed."""
    closed = threading.Event()

    def chunks() -> Iterator[ImportChunk]:
        try:
            yield ImportChunk(1, [ImportItem(Session(session_id="a"))])
            raise ZeroDivisionError
        finally:
            closed.set()

    async with served(mongodb_uri, database) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client:
            answers = client.import_sessions(ImportConfig(import_id="i"), chunks())
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(list, answers)
    assert closed.wait(PATIENCE_S)


async def test_an_event_needs_no_flush(mongodb_uri: str, database: str) -> None:
    """An event that was sent is stored soon, although nothing follows it and the stream stays open."""
    async with served(mongodb_uri, database) as asynchronous:
        await asynchronous.register_session(Session(session_id="s"))
        with SyncClickstreamClient(asynchronous.target) as client:
            stream = client.event_stream()
            await asyncio.to_thread(stream.__enter__)
            for count in (1, 2):
                stream.send(SessionEvent(session_id="s", event_id=str(count), object_id="o"))

                async def stored(count: int = count) -> bool:
                    found = await asynchronous.get_session("s")
                    return found is not None and found.event_count == count

                await eventually(stored, "the event is stored")
            await asyncio.to_thread(stream.__exit__, None, None, None)


async def test_events_keep_their_order(mongodb_uri: str, database: str) -> None:
    """Of many events, gathered in threads and by size, none is lost or sent twice; one thread's stay in order."""
    refused: list[str] = []
    async with served(mongodb_uri, database) as asynchronous:
        with SyncClickstreamClient(asynchronous.target) as client:

            def produce() -> int:
                with client.event_stream(
                    on_failure=lambda event, _: refused.append(event.event_id), batch_events=7, unacked_events=20
                ) as stream:
                    for number in range(500):
                        stream.send(SessionEvent(session_id="s", event_id=str(number), object_id="o"))
                        stream.send(SessionEvent(session_id="s", event_id=f"bad {number}"))
                return stream.totals.inserted

            assert 500 == await asyncio.to_thread(produce)
    assert [f"bad {number}" for number in range(500)] == refused


async def test_a_stream_keeps_its_client(server: ServerProcess) -> None:
    """Streams work of a client that nothing else holds."""
    with SyncClickstreamClient(server.address).event_stream() as stream:
        SyncClickstreamClient(server.address).register_session(Session(session_id="s"))
        stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))
    batch_id = SyncClickstreamClient(server.address).list_batches().batches[0].batch_id
    pages = list(SyncClickstreamClient(server.address).get_batch_pages(batch_id))
    assert [1] == [found.event_count for page in pages for found in page.sessions]


async def test_an_error_inside_is_not_hidden(server: ServerProcess) -> None:
    """An error inside an event stream comes out as it is, also when the client was closed meanwhile."""
    with SyncClickstreamClient(server.address) as client, pytest.raises(ZeroDivisionError), client.event_stream():
        client.close()
        raise ZeroDivisionError


async def test_an_event_stream_must_be_entered(server: ServerProcess) -> None:
    """`send` and `flush` of a stream that is not open say so, in both clients, and do not wait for ever."""
    event = SessionEvent(session_id="s", event_id="e", object_id="o")
    with SyncClickstreamClient(server.address) as client:
        stream = client.event_stream()
        for call in (lambda: stream.send(event), stream.flush):
            with pytest.raises(RuntimeError, match="not open"):
                call()
    async with ClickstreamClient(server.address) as asynchronous:
        other = asynchronous.event_stream()
        with pytest.raises(RuntimeError, match="not open"):
            await other.send(event)
        with pytest.raises(RuntimeError, match="not open"):
            await other.flush()


# --- what would stop the loop ---------------------------------------------------------------------------------------

STOPPING = """
import signal, sys, threading
from clickstream import *

class Own(BaseException): pass

def raising(error):
    raise error

def chunks(error):
    yield ImportChunk(1, [ImportItem(Session(session_id="a"))])
    raise error

def events(handler):
    with client.event_stream(on_failure=handler) as stream:
        stream.send(SessionEvent(session_id="s", event_id="bad"))

def imported(error):
    list(client.import_sessions(ImportConfig(import_id="i"), chunks(error)))

def other(error):
    return SyncClickstreamClient(sys.argv[1], token=lambda: raising(error))

def sent(client):
    with client.event_stream() as stream:
        stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))

def let_go_of_with_what_the_loop_waits_for():
    lock, waits = threading.Lock(), threading.Event()
    def handle(*_):
        waits.set()
        lock.acquire()
    gone = SyncClickstreamClient(sys.argv[1])
    gone.list_batches()
    with client.event_stream(on_failure=handle) as stream:
        with lock:
            stream.send(SessionEvent(session_id="s", event_id="bad"))
            waits.wait()
            del gone

def called_from_signals():
    handled, done = threading.Semaphore(1), threading.Event()
    def handle(*_):
        client.list_batches()
        handled.release()
    signal.signal(signal.SIGUSR1, handle)
    def disturb():
        while not done.wait(0.001):
            if handled.acquire(timeout=1.0):  # one after the other: on a slow machine they would pile up
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    thread = threading.Thread(target=disturb)
    thread.start()
    for _ in range(500):
        client.list_batches()
    done.set()
    thread.join()

client = SyncClickstreamClient(sys.argv[1])
try:
    eval(sys.argv[2])
except BaseException as error:
    print(type(error).__name__)
client.list_batches()
print("works on")
"""


@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("events(lambda *_: sys.exit(3))", ["SystemExit"]),
        ("events(lambda *_: raising(Own()))", ["Own"]),
        ("events(lambda *_: client.list_batches())", ["RuntimeError"]),
        ("imported(SystemExit())", ["SystemExit"]),
        ("imported(Own())", ["Own"]),
        ("called_from_signals()", []),
        ("other(SystemExit()).list_batches()", ["SystemExit"]),
        ("list(other(SystemExit()).get_batch_pages('b'))", ["SystemExit"]),
        ("sent(other(SystemExit()))", ["SystemExit"]),
        ("list(other(SystemExit()).import_sessions(ImportConfig(import_id='i'), []))", ["SystemExit"]),
        ("let_go_of_with_what_the_loop_waits_for()", []),
    ],
)
async def test_nothing_stops_the_loop(server: ServerProcess, act: str, told: list[str]) -> None:
    """What the caller's code does where the client runs it comes out as an error, and other calls work on."""
    code, output, errors = await run_python("-c", STOPPING, server.address, act)

    assert (0, [*told, "works on"]) == (code, output.splitlines()), errors
