"""Small pushes that arrive together are one bulk insert. See docs/adr/0018-groups-of-calls.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clickstream.models import WriteOutcome
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.errors import storage_call
from clickstream_server.storage.mongo.events import EventStore
from clickstream_server.storage.mongo.gatherer import Gatherer, PendingCall
from clickstream_server.storage.mongo.parts import shares
from clickstream_server.storage.mongo.prepared_events import PreparedEvents
from clickstream_server.storage.observer import NOBODY, StorageObserver

SMALL_BYTES_MAX = 64 * 1024
"""A push of more than this gains nothing by company, and others would wait for it: it goes alone, and at once."""


@dataclass(slots=True, eq=False)
class Push(PendingCall[list[WriteOutcome]]):
    """The events of one call, as documents."""

    documents: list[Document]


class Pusher(Gatherer[Push, list[WriteOutcome]]):
    """Gathers pushes into inserts. Each gets an account of its own events, decided as if it came after those before."""

    gathered = "push"
    group_bytes_max = 1024 * 1024
    overloaded = "too many events wait to be stored"

    def __init__(self, events: EventStore, *, timeout_s: float, observer: StorageObserver = NOBODY) -> None:
        super().__init__(timeout_s=timeout_s, observer=observer)
        self._events = events

    async def push(self, prepared: PreparedEvents) -> list[WriteOutcome]:
        """Store the events, each once; return what became of each."""
        if prepared.size <= SMALL_BYTES_MAX:
            return await self.submit(Push(prepared.documents, content_bytes=prepared.size))
        async with storage_call(self._timeout_s):
            return await self._events.insert(prepared.documents)

    async def work(self, group: list[Push]) -> list[list[WriteOutcome] | Exception]:
        async with storage_call(self._timeout_s):
            outcomes = await self._events.insert_each([document for push in group for document in push.documents])
        return [_account(own) for own in shares(outcomes, [len(push.documents) for push in group])]


def _account(outcomes: Sequence[WriteOutcome | Exception]) -> list[WriteOutcome] | Exception:
    """The first error, if there is one: a push that was stored in part is to be sent again."""
    told = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            return outcome
        told.append(outcome)
    return told
