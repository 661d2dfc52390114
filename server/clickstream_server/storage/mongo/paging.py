"""Reading a page of sessions with their events, within bounds of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from bson import decode_all

from clickstream.errors import MessageTooLarge
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CODEC, closed_early, document_sizes
from clickstream_server.storage.mongo.events import NO_EVENTS, FoundEvents, TooManyBytes

A = TypeVar("A")
B = TypeVar("B")

FIRST_PAGE_SESSIONS = 64
"""The first page is small so that it comes soon."""
PAGE_SESSIONS = 500
SESSIONS_BYTES_MAX = 1024 * 1024
"""Of a page, as BSON. Each reader may have three: one that is being sent, and the next two; a quick one four."""
_BATCH_SESSIONS = 128
"""So many come in one answer of MongoDB: one with all of a page may be 16 MiB, of which the page takes little."""
_TURN_SESSIONS = 32


def events_bytes_max(limits: Limits) -> int:
    """So many bytes of events, as BSON, are held of a page: those of one session that fill a message are among them."""
    return 2 * limits.message_bytes_max


class FoundSession(NamedTuple):
    """A session's document, and its events."""

    document: Document
    events: FoundEvents


async def read_page(
    cursor: Any, wanted: int, read_events: Callable[[list[str]], Awaitable[dict[str, FoundEvents]]]
) -> tuple[list[FoundSession], bool]:
    """The next `wanted` sessions at most, with their events, and whether there are no more.

    `cursor` gives raw batches of sessions, one more than wanted if there are so many. The page is shorter where it
    would be too large. Raises MessageTooLarge if the events of one session alone are.
    """
    found, complete = await _read_sessions(cursor.batch_size(min(wanted + 1, _BATCH_SESSIONS)), wanted)
    while found:
        ids = [session["_id"] for session in found]
        try:
            events = await read_events(ids)
        except TooManyBytes:
            if len(found) == 1:
                raise too_large(ids[0]) from None
            found, complete = found[: len(found) // 2], False
        else:
            return [FoundSession(session, events.get(session["_id"], NO_EVENTS)) for session in found], complete
    return [], complete


async def _read_sessions(cursor: Any, wanted: int) -> tuple[list[Document], bool]:
    found: list[Document] = []
    size = 0
    async with closed_early(cursor):
        async for batch in cursor:
            taken = 0
            for count, own_size in enumerate(document_sizes(batch), start=len(found)):
                if count == wanted or size > SESSIONS_BYTES_MAX:
                    found.extend(decode_all(batch[:taken], CODEC))
                    return found, False
                size += own_size
                taken += own_size
            found.extend(decode_all(batch, CODEC))
    return found, True


async def in_turns(sessions: Iterable[A], encode: Callable[[A], B]) -> AsyncGenerator[B, None]:
    """Each session encoded. Now and then others have their turn: a page takes long enough for many other calls."""
    for place, session in enumerate(sessions):
        if place % _TURN_SESSIONS == 0:
            await asyncio.sleep(0)
        yield encode(session)


def too_large(session_id: str) -> MessageTooLarge:
    """The error for a session whose events are more than may be held at once."""
    return MessageTooLarge(
        f"session {session_id!r} has more events than fit into one message; read it with a smaller events_limit",
        resource_name=session_id,
    )
