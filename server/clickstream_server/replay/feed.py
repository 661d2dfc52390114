"""Sending a spooled log to a server: the sessions first, then the events; a bounded number of calls in flight."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import TypeVar

from clickstream.dao import ClickstreamDao
from clickstream.errors import ClickstreamError, InvalidField, MessageTooLarge, Overloaded
from clickstream.models import PushResult, WriteOutcome
from clickstream_server.replay.account import Account, Outcomes
from clickstream_server.replay.spool import EventGroup, Spool, SpooledEvent

SESSIONS_IN_FLIGHT = 64
"""Enough for the server to commit in groups: 64 to a group is some ten times the rate of one by one."""

CHUNKS_IN_FLIGHT = 4
EVENTS_PER_CHUNK = 1_000
BYTES_PER_CHUNK = 2 * 1024 * 1024
_NAMED_PER_CALL = 20
"""How many fields an error names: as many invalid events are told apart by one call."""

_OVERLOADED_TRIES = 10
_CONFLICT = "already there with other content; what is stored stays"

T = TypeVar("T")


async def feed(dao: ClickstreamDao, spool: Spool, account: Account, advance: Callable[[], None]) -> None:
    """Send everything; `advance` is called whenever the account has changed.

    Raises ClickstreamError for what is not the fault of one session or event. The account then tells how far it got;
    sending all of it again is safe.
    """
    feeder = _Feeder(dao, spool, account, advance)
    with closing(spool.queries()) as queries:
        # The first goes alone: calls that wait for the connection are sent in any order, and numbers that follow the
        # file, as good as it gets with many in flight, are easier to read.
        await _at_once(1, islice(queries, 1), feeder.register)
        await _at_once(SESSIONS_IN_FLIGHT, queries, feeder.register)
    for group, outcomes in (
        (EventGroup.KNOWN, account.known_events),
        (EventGroup.UNREGISTERED, account.unregistered_events),
        (EventGroup.UNKNOWN, account.unknown_events),
    ):
        with closing(spool.events(group)) as events:
            chunks = ((chunk, outcomes) for chunk in _chunks(events))
            await _at_once(CHUNKS_IN_FLIGHT, chunks, feeder.push)


class _Feeder:
    """Sends one query or one chunk of events, and enters what became of it."""

    def __init__(self, dao: ClickstreamDao, spool: Spool, account: Account, advance: Callable[[], None]) -> None:
        self._dao = dao
        self._spool = spool
        self._account = account
        self._advance = advance

    async def register(self, query: tuple[int, str]) -> None:
        line, query_id = query
        account = self._account
        try:
            mapped = self._spool.session(query_id)
            done = await _patiently(lambda: self._dao.register_session(mapped.session))
        except (InvalidField, MessageTooLarge) as error:
            account.sessions.refused += 1
            account.notes.add("query", _reason(error), line)
            self._spool.mark_unregistered(query_id)
        else:
            account.sessions.add(done.outcome)
            if done.outcome is WriteOutcome.INSERTED:
                account.numbered(done.session.batch_id, done.session.session_number)
            elif done.outcome is WriteOutcome.CONFLICT:
                account.notes.add("query", _CONFLICT, line)
            if mapped.rows_left_out:
                account.rows_left_out.add(line, mapped.rows_left_out)
        self._advance()

    async def push(self, work: tuple[list[SpooledEvent], Outcomes]) -> None:
        await self._push(*work)
        self._advance()

    async def _push(self, chunk: list[SpooledEvent], outcomes: Outcomes) -> None:
        """Send a chunk. Where the whole call is refused, find out whose fault it is, with smaller calls."""
        try:
            result = await _patiently(lambda: self._dao.push_events([spooled.event for spooled in chunk]))
        except (InvalidField, MessageTooLarge) as error:
            named = _reasons_by_place(error)
            if not named and len(chunk) > 1:
                for half in _in_pieces(chunk, (len(chunk) + 1) // 2):
                    await self._push(half, outcomes)
                return
            for place, reason in (named or {0: _reason(error)}).items():
                outcomes.refused += 1
                self._account.notes.add("event", reason, chunk[place].line)
            rest = [spooled for place, spooled in enumerate(chunk) if named and place not in named]
            for piece in _in_pieces(rest, _NAMED_PER_CALL):
                await self._push(piece, outcomes)
        else:
            self._enter(chunk, result, outcomes)

    def _enter(self, chunk: list[SpooledEvent], result: PushResult, outcomes: Outcomes) -> None:
        outcomes.add_all(result)
        for failure in result.failures:
            conflict = failure.outcome is WriteOutcome.CONFLICT
            self._account.notes.add("event", _CONFLICT if conflict else failure.message, chunk[failure.index].line)


async def _at_once(most: int, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Work on the items in their order, on `most` of them at a time; the first failure ends it."""
    remaining = iter(items)

    async def work_on() -> None:
        for item in remaining:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(most):
                group.create_task(work_on())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call, and call again a few times while the server has too much to do."""
    for _ in range(_OVERLOADED_TRIES):
        try:
            return await call()
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s or 1.0)
    return await call()


def _chunks(events: Iterator[SpooledEvent]) -> Iterator[list[SpooledEvent]]:
    chunk: list[SpooledEvent] = []
    size = 0
    for spooled in events:
        if chunk and (len(chunk) == EVENTS_PER_CHUNK or size + spooled.size > BYTES_PER_CHUNK):
            yield chunk
            chunk, size = [], 0
        chunk.append(spooled)
        size += spooled.size
    if chunk:
        yield chunk


def _in_pieces(chunk: list[SpooledEvent], size: int) -> Iterator[list[SpooledEvent]]:
    for start in range(0, len(chunk), size):
        yield chunk[start : start + size]


def _reason(error: ClickstreamError) -> str:
    """What is wrong with a refused item, without its place in the call."""
    if not error.violations:
        return error.message
    path, what = error.violations[0]
    return _worded(path, what)


def _reasons_by_place(error: ClickstreamError) -> dict[int, str]:
    """What is wrong with each of the events that the error of a whole call names."""
    found: dict[int, str] = {}
    for path, what in error.violations:
        if place := re.match(r"events\[([0-9]+)\]", path):
            found.setdefault(int(place[1]), _worded(path, what))
    return found


def _worded(path: str, what: str) -> str:
    inner = re.sub(r"^(session|events\[[0-9]+\])(\.|$)", "", path)
    return f"{inner}: {what}" if inner else what
