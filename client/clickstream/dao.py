"""ClickstreamDao, the abstract interface that the storage and the client both implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from clickstream.errors import InvalidField
from clickstream.models import (
    BatchList,
    BatchRelease,
    PushResult,
    RegisteredSession,
    Registration,
    Session,
    SessionBatch,
    SessionBatchStatus,
    SessionEvent,
    SessionPage,
    SessionWithEvents,
)

DEFAULT_EVENTS_LIMIT = 100


class ClickstreamDao(ABC):
    """Sessions, their events and the batches that number them.

    Every method may raise InvalidField (nothing was stored), Unavailable or DeadlineExceeded (it may have been stored,
    and calling again does no harm, except where a method says otherwise). What else it raises stands with it.

    The promises: what a returned value counts as stored is durable and stored once; the numbers given out in a batch
    are 1, 2, 3 ... without gaps; when a number can be read, so can every number below it; after `release_batch` has
    returned, nothing is registered in that batch.
    """

    @abstractmethod
    async def register_session(self, session: Session) -> Registration:
        """Put a new session into the collecting batch, made if there is none, under the next number.

        A known id changes nothing and uses up no number: the outcome is DUPLICATE or CONFLICT (other content), with
        what is stored. A retry also gets DUPLICATE if the first try was stored and its answer was lost.
        """

    @abstractmethod
    async def update_session(self, session: Session) -> RegisteredSession:
        """Replace a known session's content and move it to the collecting batch under a new number.

        Content that it already has in the collecting batch changes nothing. A retry after a lost answer overwrites a
        newer update by somebody else, and moves the session again if its batch was released in between. Raises
        SessionNotFound.
        """

    @abstractmethod
    async def push_events(self, events: Sequence[SessionEvent | InvalidField]) -> PushResult:
        """Store events, each once; one bad event never sinks the rest. They may come before their session.

        An event that could not even be read may stand as its error: a storage counts it as REJECTED, at its place; a
        client raises it, since it cannot be sent. Raises InvalidField if all are invalid, there is none, or there are
        too many.
        """

    @abstractmethod
    async def mark_session_irrelevant(self, session_id: str) -> RegisteredSession:
        """Hide a session from readers that exclude irrelevant ones. Raises SessionNotFound."""

    @abstractmethod
    async def get_session(
        self, session_id: str, *, events_limit: int | None = DEFAULT_EVENTS_LIMIT
    ) -> SessionWithEvents | None:
        """Return a session with its earliest events (None: all, 0: none). If none is found it returns None."""

    @abstractmethod
    def get_batch_pages(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> AsyncGenerator[SessionPage, None]:
        """Read a batch's sessions by ascending number, many to a page; there is at least one page.

        `after_number`: start after this number. `limit` 0: all. `events_limit` None: all of a session's events, 0:
        none. `follow`: on a collecting batch (an empty `batch_id` means the one that collects now) go on with
        sessions as they are committed, until the batch is sealed; while there are none, an empty page comes as a
        heartbeat, at once and then every few seconds.

        Reading the same batch again after a page's `last_number` loses nothing and repeats nothing. With an empty
        `batch_id` it may be another batch: name the one whose sessions came. Raises BatchNotFound,
        NoCollectingBatch, and MessageTooLarge if one session has more events than can be carried at once.
        """

    async def get_batch_sessions(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> AsyncGenerator[SessionWithEvents, None]:
        """Read a batch's sessions one by one; otherwise as `get_batch_pages`."""
        pages = self.get_batch_pages(
            batch_id,
            after_number=after_number,
            limit=limit,
            events_limit=events_limit,
            exclude_irrelevant=exclude_irrelevant,
            follow=follow,
        )
        async with aclosing(pages):
            async for page in pages:
                for session in page.sessions:
                    yield session

    @abstractmethod
    async def get_batch(self, batch_id: str) -> SessionBatch | None:
        """Return a batch. If none is found it returns None."""

    @abstractmethod
    async def list_batches(
        self, *, statuses: Sequence[SessionBatchStatus] = (), page_size: int = 0, page_token: str = ""
    ) -> BatchList:
        """List the batches with one of these statuses (none given: all), newest first. `page_size` 0: 100."""

    @abstractmethod
    async def release_batch(self, release_id: str) -> BatchRelease:
        """Seal the collecting batch under an idempotency key.

        A known key returns the batch that it released, whatever is collecting now. Raises NoCollectingBatch.
        """

    @abstractmethod
    async def update_batch_status(
        self, batch_id: str, status: SessionBatchStatus, *, expected_status: SessionBatchStatus | None = None
    ) -> SessionBatch:
        """Set a batch's status; COLLECTING reopens it and clears its release.

        With `expected_status`, a call whose answer was lost must not simply be repeated: look at the batch first.
        Raises BatchNotFound, BatchAlreadyCollecting if another batch collects, BatchStatusMismatch.
        """
