"""Calls that arrive together share the database's work.

The first call goes at once. Those that arrive while it is in flight form the next group: there is no timer, and no
delay when idle. See docs/adr/0018-groups-of-calls.md.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from clickstream.errors import ClickstreamError, Overloaded, ShuttingDown
from clickstream_server.call_record import CallRecord, Stage, call_record, enter
from clickstream_server.deadlines import budget_s
from clickstream_server.storage.mongo.driver import CLOSE_S_MAX
from clickstream_server.storage.mongo.errors import cause_of, named, storage_unavailable
from clickstream_server.storage.observer import NOBODY, Gathered, StorageObserver

R = TypeVar("R")


@dataclass(slots=True, eq=False, kw_only=True)
class PendingCall(Generic[R]):
    """One call that waits for its group. `content_bytes` is the size of all of it.

    `record` is of the call of the service that it was made in, if there is one.
    """

    content_bytes: int
    record: CallRecord | None = field(default_factory=call_record)
    done: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


C = TypeVar("C", bound=PendingCall[Any])


class Gatherer(ABC, Generic[C, R]):
    """Gathers the calls that wait into groups, one at a time. Each call has a result of its own."""

    gathered: ClassVar[Gathered]
    group_max: ClassVar[int] = 256
    group_bytes_max: ClassVar[int]
    waiting_max: ClassVar[int] = 20_000
    waiting_bytes_max: ClassVar[int] = 64 * 1024 * 1024
    """Past so many calls or bytes that wait, calls are refused."""
    overloaded: ClassVar[str]
    """The message of their error."""

    def __init__(self, *, timeout_s: float, observer: StorageObserver = NOBODY) -> None:
        self._observer = observer
        self._timeout_s = timeout_s
        self._waiting: OrderedDict[int, C] = OrderedDict()
        """By identity, so that a call whose caller has gone away can leave."""
        self._waiting_bytes = 0
        self._taken = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    @abstractmethod
    async def work(self, group: list[C]) -> Sequence[R | Exception]:
        """Do what these calls ask for; return each one's result or error, or raise the error of all of them.

        What is raised and is no error of the domain may lie in one of them: the halves of the group are tried again.
        """

    @property
    def waiting(self) -> tuple[int, int]:
        """How many calls wait for their group now, and how many bytes they have."""
        return len(self._waiting), self._waiting_bytes

    async def submit(self, call: C) -> R:
        """The call's result, once its group is done. The caller's deadline bounds this wait, and not the group's."""
        return (await self.submit_all([call]))[0]

    async def submit_all(self, calls: Sequence[C]) -> list[R]:
        """The results of all, which enter in this order. Raises the first error, if there is one.

        A call whose result nobody waits for any more, after an error or since the caller has gone away, is not made
        unless it is under way.
        """
        if self._closed:
            raise ShuttingDown("the server is stopping", retry_after_s=1.0)
        if len(self._waiting) >= self.waiting_max or self._waiting_bytes >= self.waiting_bytes_max:
            raise Overloaded(self.overloaded, retry_after_s=1.0)
        timeout_s = budget_s(self._timeout_s)
        for call in calls:
            self._waiting[id(call)] = call
            self._waiting_bytes += call.content_bytes
        enter(Stage.QUEUE)
        if self._working is None or self._working.done():
            # An empty context: the group must not inherit the deadline of the call that happened to start it.
            self._working = asyncio.create_task(self._work(), name=type(self).__name__, context=Context())
        # asyncio.timeout takes 4 µs more, asyncio.gather 1.2 µs more for each call.
        giving_up = asyncio.get_running_loop().call_later(timeout_s, _give_up, calls)
        try:
            return [await call.done for call in calls]
        finally:
            giving_up.cancel()
            enter(Stage.ENCODE)
            self._leave(calls)

    async def close(self, timeout_s: float = CLOSE_S_MAX) -> None:
        """Refuse new calls and finish those that wait, unless the database takes more than `timeout_s` for it."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait([self._working], timeout=timeout_s)
            self._working.cancel()

    def _leave(self, calls: Sequence[C]) -> None:
        """Those whose caller has gone away wait no longer: nobody would be told, and others have their room."""
        for call in calls:
            if not call.done.cancel() and not call.done.cancelled():
                call.done.exception()  # else asyncio complains of an error that nobody looked at
            if self._waiting.pop(id(call), None) is not None:
                self._waiting_bytes -= call.content_bytes
                self._taken.set()

    async def _work(self) -> None:
        while group := self._next_group():
            await self._settle(group)

    def _next_group(self) -> list[C]:
        group: list[C] = []
        size = 0
        while self._waiting and len(group) < self.group_max and size < self.group_bytes_max:
            _, call = self._waiting.popitem(last=False)
            self._waiting_bytes -= call.content_bytes
            group.append(call)
            if call.record is not None:
                call.record.enter(Stage.DATABASE)
            size += call.content_bytes
        self._taken.set()
        return group

    async def _settle(self, group: list[C]) -> None:
        """Give every call of the group its result or its error. Never raises."""
        results: Sequence[R | Exception] | None
        try:
            with self._observer.group(self.gathered, [call.record for call in group]):
                results = await self.work(group)
        except Exception as error:
            alone = len(group) == 1 or isinstance(error, ClickstreamError)
            results = [error] * len(group) if alone else None
        if results is None:  # no longer while the error is handled, or it would be a part of what the halves raise
            for half in (group[: len(group) // 2], group[len(group) // 2 :]):
                # Whose caller has left is not made now: it may have been made again meanwhile, with newer content.
                if waited_for := [call for call in half if not call.done.done()]:
                    await self._settle(waited_for)
            return
        for call, result in zip(group, results, strict=True):
            if call.done.done():
                continue
            if isinstance(result, Exception):
                if call.record is not None:
                    call.record.cause = cause_of(result)
                call.done.set_exception(result)
            else:
                call.done.set_result(result)


def _give_up(calls: Sequence[PendingCall[Any]]) -> None:
    """Their time is over: those that are not done yet fail."""
    for call in calls:
        if not call.done.done():
            if call.record is not None:
                call.record.cause = named(TimeoutError())
            call.done.set_exception(storage_unavailable())
