"""Sessions that are asked for together are read together. See docs/adr/0018-groups-of-calls.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clickstream.dao import DEFAULT_EVENTS_LIMIT
from clickstream_server.storage.mongo import indexes
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.driver import in_one_thread, unwrapped
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import IN_ORDER, FoundEvents
from clickstream_server.storage.mongo.gatherer import Gatherer, PendingCall
from clickstream_server.storage.mongo.new_primary import UpToDate
from clickstream_server.storage.mongo.raw_batches import TooManyBytes, first_batch
from clickstream_server.storage.observer import NOBODY, StorageObserver

SMALL_LIMIT_MAX = DEFAULT_EVENTS_LIMIT
"""Whoever asks for more events of a session reads them alone."""
EVENTS_AT_ONCE_MAX = 2_000
"""So many events of several sessions are read in one answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """A session's document. `events`: those asked for; None if they are to be read alone."""

    document: Document
    events: FoundEvents | None


@dataclass(slots=True, eq=False)
class Wanted(PendingCall[Found | None]):
    """A call that asks for a session, and whether for a few of its events, too."""

    session_id: str
    few_events: bool


class Getter(Gatherer[Wanted, Found | None]):
    """Gathers calls that ask for a session: one query for the sessions of a group, then one for the events of all.

    A session whose events do not fit into one answer, together with those of the others, is to be asked for its events
    alone: so nobody waits for another's many events, and none are read that nobody asked for.
    """

    gathered = "get"
    group_max = 64
    group_bytes_max = 64 * 1024
    overloaded = "too many calls wait for their session"

    def __init__(
        self,
        client: Any,
        database: Any,
        up_to_date: UpToDate,
        *,
        timeout_s: float,
        observer: StorageObserver = NOBODY,
    ) -> None:
        super().__init__(timeout_s=timeout_s, observer=observer)
        self._client = client
        self._up_to_date = up_to_date
        self._sessions, self._events = (unwrapped(database)[name] for name in (indexes.SESSIONS, indexes.EVENTS))

    async def get(self, session_id: str, events_limit: int | None) -> Found | None:
        """The session; None if it is not known."""
        few = events_limit is not None and 0 < events_limit <= SMALL_LIMIT_MAX
        wanted = Wanted(session_id, few, content_bytes=len(session_id))
        found = await self.submit(wanted)
        if found is not None and found.events is not None:
            return Found(found.document, FoundEvents(found.events.documents[:events_limit], found.events.count))
        return found

    async def work(self, group: list[Wanted]) -> list[Found | None]:
        async with storage_call(self._timeout_s):
            return await self._up_to_date.read(lambda: in_one_thread(self._client, lambda: self._read(group)))

    async def _read(self, group: list[Wanted]) -> list[Found | None]:
        ids = list({wanted.session_id for wanted in group})
        documents, complete = await first_batch(self._sessions.find_raw_batches({"_id": {"$in": ids}}), len(ids))
        if not complete:
            raise TooManyBytes
        sessions = {document["_id"]: document for document in documents}
        few = {wanted.session_id for wanted in group if wanted.few_events and wanted.session_id in sessions}
        events = await self._whole(sorted(few)) if few else {}
        return [
            Found(sessions[wanted.session_id], events.get(wanted.session_id) if wanted.few_events else None)
            if wanted.session_id in sessions
            else None
            for wanted in group
        ]

    async def _whole(self, session_ids: list[str]) -> dict[str, FoundEvents]:
        """All events of some of these sessions, which are in their order. Whoever is missing may have any number."""
        query = {"_id.session_id": {"$in": session_ids}}
        cursor = self._events.find_raw_batches(query).sort(IN_ORDER).limit(EVENTS_AT_ONCE_MAX)
        events, complete = await first_batch(cursor, EVENTS_AT_ONCE_MAX)
        if len(events) == EVENTS_AT_ONCE_MAX or not complete:
            last = events[-1]["_id"]["session_id"]  # of this session there may be more; of those before it there is not
            session_ids = session_ids[: session_ids.index(last)]
        found: dict[str, list[Document]] = {session_id: [] for session_id in session_ids}
        for event in events:
            if (of_session := found.get(event["_id"]["session_id"])) is not None:
                of_session.append(event)
        return {session_id: FoundEvents(of_session, len(of_session)) for session_id, of_session in found.items()}
