"""Reading a page of sessions with their events, within bounds of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

from bson import decode_all

from clickstream.errors import MessageTooLarge
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CODEC
from clickstream_server.storage.mongo.events import NO_EVENTS, FoundEvents
from clickstream_server.storage.mongo.raw_batches import TooManyBytes, batches_of, document_sizes

A = TypeVar("A")
B = TypeVar("B")

FIRST_PAGE_SESSIONS = 16
"""The first page is small so that it comes soon."""
FEW_SESSIONS = 100
"""Who asks for so many at most gets them in one page."""
PAGE_SESSIONS = 500
SESSIONS_BYTES_MAX = 1024 * 1024
"""Of a page, as BSON. Each reader may have three: one that is being sent, and the next two; a quick one four."""
_BATCH_SESSIONS = 128
"""So many come in one answer of MongoDB: one with all of a page may be 16 MiB, of which the page takes little."""
_TURN_SESSIONS = 32


def events_bytes_max(limits: Limits) -> int:
    """So many bytes of events, as BSON, are held of a page.

    An event with UUIDs for ids takes up to 2.2 times as many as BSON as in a message, one with ids of two letters 5
    times: so a session with very many small events may be refused before it would fill a message.
    """
    return 2 * limits.message_bytes_max


class FoundSession(NamedTuple):
    """A session's document, and its events."""

    document: Document
    events: FoundEvents


ReadEvents = Callable[[list[str]], Awaitable[dict[str, FoundEvents]]]
"""Reads the events of sessions by their ids. Raises TooManyBytes where they are too large together."""


async def with_events(sessions: list[Document], read_events: ReadEvents) -> list[FoundSession]:
    """These sessions with their events; only the first of them where the events of all would be too large.

    Raises MessageTooLarge if the events of one session alone are.
    """
    while sessions:
        ids = [session["_id"] for session in sessions]
        try:
            events = await read_events(ids)
        except TooManyBytes:
            if len(sessions) == 1:
                raise too_large(ids[0]) from None
            sessions = sessions[: len(sessions) // 2]
        else:
            return [FoundSession(session, events.get(session["_id"], NO_EVENTS)) for session in sessions]
    return []


async def read_sessions(cursor: Any, wanted: int) -> tuple[list[Document], bool]:
    """The next `wanted` sessions at most, and whether there are no more; fewer where they would be too large.

    `cursor` gives raw batches of sessions, one more than wanted if there are so many.
    """
    cursor = cursor.batch_size(min(wanted + 1, _BATCH_SESSIONS))
    found: list[Document] = []
    size = 0
    async with aclosing(batches_of(cursor)) as batches:
        async for batch in batches:
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
