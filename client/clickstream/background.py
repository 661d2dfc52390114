"""An event loop in a thread of its own: how callers that are not asynchronous use the asynchronous client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from clickstream import forks
from clickstream.call_errors import client_closed
from clickstream.client import ClickstreamClient

T = TypeVar("T")
S = TypeVar("S")
P = ParamSpec("P")
READ_AHEAD = 2
"""So many items of a stream are read before the caller asks for them."""
_LET_GO_S = 2.0
"""So long whoever lets go of a client waits for its end. At the end of a program that takes some milliseconds."""
_IN_LOOP = (
    "this runs in the client's own thread (on_failure does, for one), where a call would wait for itself: "
    "hand the work to another thread"
)
_NOTHING: Any = object()
_THREAD_NAME = "clickstream"


class Carried(Exception):
    """Takes what no event loop survives, such as SystemExit, from the caller's code that raised it to the caller."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self._error = error
        self._traceback = error.__traceback__

    def reraise(self) -> NoReturn:
        """Raise what it carries. If that is done more than once, the frames of those who did before are not kept."""
        raise self._error.with_traceback(self._traceback) from None


def carrying(theirs: Callable[P, T]) -> Callable[P, T]:
    """The caller's code, for the loop to call: SystemExit would end it, and with it every call of the process."""

    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return theirs(*args, **kwargs)
        except Exception:
            raise
        except BaseException as error:
            raise Carried(error) from error

    return carried


class Background:
    """A ClickstreamClient on the process's event loop for callers that are not asynchronous."""

    def __init__(self, client: ClickstreamClient) -> None:
        self._client = client
        self._lock = threading.RLock()  # a signal handler may make a call, too, in the thread that holds it
        self._running: set[Future[Any]] = set()
        self._used = self._closed = False

    def run(self, call: Callable[[ClickstreamClient], Coroutine[Any, Any, T]]) -> T:
        """Make the call on the loop and wait for its answer."""
        future = self._submit(call)
        try:
            return future.result()
        except CancelledError:
            raise client_closed() from None
        except Carried as carried:
            carried.reraise()
        finally:
            future.cancel()  # when the wait was interrupted, by Ctrl-C say, the call ends, too
            del future  # its error has this frame, which held it until the garbage collector comes

    def post(self, act: Callable[[], object]) -> None:
        """Do this on the loop soon, and do not wait for it."""
        with self._lock:
            if self._closed:
                raise client_closed()
            _loop().call_soon_threadsafe(act)

    def iterate(self, items: Callable[[ClickstreamClient], AsyncGenerator[T, None]]) -> Generator[T, None, None]:
        """The items of an asynchronous generator, a few of them read ahead."""
        return self.converse(lambda client, _: items(client), iter(()))

    def converse(
        self, answers: Callable[[ClickstreamClient, AsyncIterator[S]], AsyncGenerator[T, None]], sent: Iterator[S]
    ) -> Generator[T, None, None]:
        """The answers of an asynchronous generator to what `sent` gives, which is iterated in a thread of its own."""
        exchange = _Exchange(answers, sent)
        future = self._submit(exchange.run)
        future.add_done_callback(exchange.over)
        try:
            yield from exchange.answers()
        finally:
            future.cancel()
            del future  # as above

    def let_go(self) -> None:
        """As `close`, where nobody asked for it: in any thread, which may hold what the loop is waiting for."""
        with suppress(TimeoutError):
            self.close(_LET_GO_S)

    def close(self, timeout_s: float | None = None) -> None:
        """Close the connection. Calls that still run end with Cancelled.

        Raises TimeoutError after `timeout_s` seconds; it is closed all the same as soon as the loop comes to it.
        """
        with suppress(forks.ForkedProcess):  # there is nothing to close in the child
            forks.check()
            with self._lock:
                already, self._closed = self._closed, True
                running = list(self._running)
            if already or not self._used:  # for an unused one no loop is started: it would be dead in a fork
                return
            for future in running:
                future.cancel()
            closing = asyncio.run_coroutine_threadsafe(self._client.close(), _loop())
            if not _in_loop():  # there, garbage is collected: it would wait for itself
                closing.result(timeout_s)

    def _submit(self, call: Callable[[ClickstreamClient], Coroutine[Any, Any, T]]) -> Future[T]:
        check_caller()
        forks.connecting()
        with self._lock:
            if self._closed:
                raise client_closed()
            self._used = True
            future = asyncio.run_coroutine_threadsafe(call(self._client), _loop())
            self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future


class _Exchange(Generic[S, T]):
    """One stream between a caller's thread, the loop, and the thread that iterates what is to be sent."""

    def __init__(
        self, answers: Callable[[ClickstreamClient, AsyncIterator[S]], AsyncGenerator[T, None]], sent: Iterator[S]
    ) -> None:
        self._answers = answers
        self._to_send = sent
        self._room = asyncio.Semaphore(READ_AHEAD)
        self._came: SimpleQueue[_Answer[T] | _Ended] = SimpleQueue()
        self._wanted: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()

    async def run(self, client: ClickstreamClient) -> None:
        """The loop's side: until the answers end."""
        async with aclosing(self._answers(client, self._sent())) as answers:
            async for answer in answers:
                await self._room.acquire()
                self._came.put(_Answer(answer))

    async def _sent(self) -> AsyncGenerator[S, None]:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._send, args=(loop,), name=f"{_THREAD_NAME}-send", daemon=True).start()
        while True:
            wanted = loop.create_future()
            self._wanted.put(wanted)
            if (item := await wanted) is _NOTHING:
                return
            yield item

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """The sending thread's side: one after the other, as they are wanted."""
        while (wanted := self._wanted.get()) is not None:
            item, error = _NOTHING, None
            try:
                item = next(self._to_send, _NOTHING)
            except BaseException as raised:  # the call ends with it
                error = raised if isinstance(raised, Exception) else Carried(raised)
            loop.call_soon_threadsafe(_settle, wanted, item, error)
        if isinstance(self._to_send, Generator):
            self._to_send.close()

    def over(self, running: Future[None]) -> None:
        """The loop's side is over."""
        self._wanted.put(None)
        self._came.put(_Ended(client_closed() if running.cancelled() else running.exception()))

    def answers(self) -> Generator[T, None, None]:
        """The caller's side."""
        while True:
            check_caller()
            match self._came.get():
                case _Answer(item):
                    _loop().call_soon_threadsafe(self._room.release)
                    yield item
                case _Ended(error):
                    if error is None:
                        return
                    try:
                        if isinstance(error, Carried):
                            error.reraise()
                        raise error
                    finally:
                        del error  # as above


@dataclass(frozen=True, slots=True)
class _Answer(Generic[T]):
    """An item for the caller."""

    item: T


@dataclass(frozen=True, slots=True)
class _Ended:
    """The call is over."""

    error: BaseException | None


def _settle(wanted: asyncio.Future[Any], item: Any, error: Exception | None) -> None:
    if wanted.done():  # the call was cancelled meanwhile
        return
    if error is None:
        wanted.set_result(item)
    else:
        wanted.set_exception(error)


def check_caller() -> None:
    """Raise what is wrong with a call from here: ForkedProcess, or RuntimeError in the loop's thread."""
    forks.check()
    if _in_loop():
        raise RuntimeError(_IN_LOOP)


_starting = threading.RLock()  # closing a client that is collected as garbage asks for the loop, in any thread
_shared: asyncio.AbstractEventLoop | None = None


def _loop() -> asyncio.AbstractEventLoop:
    """The process's loop. It is one for all clients: gRPC serves several loops, but complains in their logs."""
    global _shared  # noqa: PLW0603  # there is one a process
    with _starting:
        if _shared is None:
            _shared = asyncio.new_event_loop()
            _shared.set_exception_handler(_handle_exception)
            threading.Thread(target=_shared.run_forever, name=_THREAD_NAME, daemon=True).start()
        return _shared


def _in_loop() -> bool:
    """Whether what runs now is called by the loop."""
    try:
        return asyncio.get_running_loop() is _shared
    except RuntimeError:
        return False


def _handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over what gRPC says when another loop of the process has taken an event first; it does no harm."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
