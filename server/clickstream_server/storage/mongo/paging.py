"""Reading a page of sessions with their events, within bounds of memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bson import decode

from clickstream.errors import MessageTooLarge
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import CODEC, raw_documents
from clickstream_server.storage.mongo.events import FoundEvents, TooManyBytes

FIRST_PAGE_SESSIONS = 64
"""The first page is small so that it comes soon."""
PAGE_SESSIONS = 500
SESSIONS_BYTES_MAX = 4 * 1024 * 1024


def events_bytes_max(limits: Limits) -> int:
    """So many bytes of events, as BSON, are held of a page: those of one session that fill a message are among them."""
    return 2 * limits.message_bytes_max


@dataclass(frozen=True, slots=True)
class FoundSession:
    """A session's document, its size in bytes of BSON, and its events."""

    document: Document
    size: int
    events: FoundEvents = field(default_factory=FoundEvents)


async def read_page(
    cursor: Any, wanted: int, read_events: Callable[[list[str]], Awaitable[dict[str, FoundEvents]]]
) -> tuple[list[FoundSession], bool]:
    """The next `wanted` sessions at most, with their events, and whether there are no more.

    `cursor` gives raw batches of sessions, one more than wanted if there are so many. The page is shorter where it
    would be too large. Raises MessageTooLarge if the events of one session alone are.
    """
    found, complete = await _read_sessions(cursor, wanted)
    while found:
        ids = [session.document["_id"] for session in found]
        try:
            events = await read_events(ids)
        except TooManyBytes:
            if len(found) == 1:
                raise too_large(ids[0]) from None
            found, complete = found[: len(found) // 2], False
        else:
            return [_with(session, events) for session in found], complete
    return [], complete


async def _read_sessions(cursor: Any, wanted: int) -> tuple[list[FoundSession], bool]:
    found: list[FoundSession] = []
    size = 0
    try:
        async for batch in cursor:
            for raw in raw_documents(batch):
                if len(found) == wanted or size > SESSIONS_BYTES_MAX:
                    return found, False
                size += len(raw)
                found.append(FoundSession(decode(raw, CODEC), len(raw)))
    finally:
        await cursor.close()
    return found, True


def _with(session: FoundSession, events: dict[str, FoundEvents]) -> FoundSession:
    return FoundSession(session.document, session.size, events.get(session.document["_id"], FoundEvents()))


def too_large(session_id: str) -> MessageTooLarge:
    """The error for a session whose events are more than may be held at once."""
    return MessageTooLarge(
        f"session {session_id!r} has more events than fit into one message; read it with a smaller events_limit",
        resource_name=session_id,
    )
