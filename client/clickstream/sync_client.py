"""SyncClickstreamClient: ClickstreamClient for callers that are not asynchronous."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self
from weakref import finalize

from clickstream.access import Access
from clickstream.background import Background, carrying
from clickstream.client import DEFAULT_TARGET, ClickstreamClient
from clickstream.credentials import Tls, Token
from clickstream.dao import DEFAULT_EVENTS_LIMIT
from clickstream.errors import InvalidField
from clickstream.event_stream import FailureHandler
from clickstream.export import ExportFilter, ExportPage
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
from clickstream.sync_event_stream import SyncEventStream
from clickstream.transfer import EventAck, EventBatch, ImportChunk, ImportConfig, ImportProgress, ImportSummary
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.values import MESSAGE_BYTES_MAX


class SyncClickstreamClient:
    """A connection to the service for scripts, notebooks and trainers; one is enough for a process.

        with SyncClickstreamClient("127.0.0.1:50051") as client:
            done = client.register_session(Session(session_id="s-1", search_query="lamp"))

    Methods, models, errors, deadlines, retries and resuming streams are those of ClickstreamClient, which runs on an
    event loop in a thread behind it. It may be used by many threads at once, also inside a running event loop (as in a
    notebook), where it blocks. What it streams is a generator: leave it half-way and close it (or let go of it), and
    the call ends.

    It can be pickled, for a spawned process, say: the copy has a connection of its own. What is pickled then holds the
    token; of a `TokenFile` it holds the path. It can be forked before its first call; later the child gets
    ForkedProcess, since gRPC does not survive a fork.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        token: Token | None = None,
        tls: bool | Tls = False,
        token_in_clear: bool = False,
        deadline_s: float = 10.0,
        stream_deadline_s: float = 3600.0,
        stream_resume_s: float = 60.0,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self.target = target
        self._access = Access.of(target, token, tls=tls, token_in_clear=token_in_clear)
        self.settings: dict[str, Any] = {
            "deadline_s": deadline_s,
            "stream_deadline_s": stream_deadline_s,
            "stream_resume_s": stream_resume_s,
            "message_bytes_max": message_bytes_max,
        }
        if callable(token):
            token = carrying(token)  # not in what is pickled
        client = ClickstreamClient(target, token=token, tls=tls, token_in_clear=token_in_clear, **self.settings)
        self._background = Background(client)
        self._let_go = finalize(self, self._background.let_go)

    def __reduce__(self) -> tuple[Any, ...]:
        # Beside the class, not as its arguments: their repr would show the token.
        return _copied, (type(self), self._access, self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls that still run end with Cancelled."""
        self._let_go.detach()
        self._background.close()

    def register_session(self, session: Session) -> Registration:
        """See `ClickstreamDao.register_session`."""
        return self._background.run(lambda client: client.register_session(session))

    def update_session(self, session: Session) -> RegisteredSession:
        """See `ClickstreamDao.update_session`."""
        return self._background.run(lambda client: client.update_session(session))

    def push_events(self, events: Sequence[SessionEvent | InvalidField]) -> PushResult:
        """See `ClickstreamDao.push_events`."""
        return self._background.run(lambda client: client.push_events(events))

    def mark_session_irrelevant(self, session_id: str) -> RegisteredSession:
        """See `ClickstreamDao.mark_session_irrelevant`."""
        return self._background.run(lambda client: client.mark_session_irrelevant(session_id))

    def get_session(
        self, session_id: str, *, events_limit: int | None = DEFAULT_EVENTS_LIMIT
    ) -> SessionWithEvents | None:
        """See `ClickstreamClient.get_session`."""
        return self._background.run(lambda client: client.get_session(session_id, events_limit=events_limit))

    def get_batch_pages(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> Generator[SessionPage, None, None]:
        """See `ClickstreamDao.get_batch_pages`."""
        yield from self._background.iterate(
            lambda client: client.get_batch_pages(
                batch_id,
                after_number=after_number,
                limit=limit,
                events_limit=events_limit,
                exclude_irrelevant=exclude_irrelevant,
                follow=follow,
            )
        )

    def get_batch_sessions(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> Generator[SessionWithEvents, None, None]:
        """See `ClickstreamDao.get_batch_sessions`."""
        pages = self.get_batch_pages(
            batch_id,
            after_number=after_number,
            limit=limit,
            events_limit=events_limit,
            exclude_irrelevant=exclude_irrelevant,
            follow=follow,
        )
        with closing(pages):
            for page in pages:
                yield from page.sessions

    def _batch_messages(
        self, request: pb.GetBatchSessionsRequest
    ) -> Generator[pb.GetBatchSessionsResponse, None, None]:
        """See `ClickstreamClient._batch_messages`."""
        return self._background.iterate(lambda client: client._batch_messages(request))  # noqa: SLF001  # ours, too

    def get_batch(self, batch_id: str) -> SessionBatch | None:
        """See `ClickstreamDao.get_batch`."""
        return self._background.run(lambda client: client.get_batch(batch_id))

    def list_batches(
        self, *, statuses: Sequence[SessionBatchStatus] = (), page_size: int = 0, page_token: str = ""
    ) -> BatchList:
        """See `ClickstreamDao.list_batches`."""
        return self._background.run(
            lambda client: client.list_batches(statuses=statuses, page_size=page_size, page_token=page_token)
        )

    def release_batch(self, release_id: str) -> BatchRelease:
        """See `ClickstreamDao.release_batch`."""
        return self._background.run(lambda client: client.release_batch(release_id))

    def update_batch_status(
        self, batch_id: str, status: SessionBatchStatus, *, expected_status: SessionBatchStatus | None = None
    ) -> SessionBatch:
        """See `ClickstreamDao.update_batch_status`."""
        return self._background.run(
            lambda client: client.update_batch_status(batch_id, status, expected_status=expected_status)
        )

    def event_stream(
        self,
        *,
        on_failure: FailureHandler | None = None,
        batch_events: int = 1_000,
        batch_bytes: int = 1024 * 1024,
        batch_s: float = 0.05,
        unacked_events: int = 20_000,
    ) -> SyncEventStream:
        """See `ClickstreamClient.event_stream`.

        `on_failure` is called in the client's thread, not in the caller's: all calls wait for it, and it cannot call
        the client itself.
        """
        return SyncEventStream(
            self,
            self._background,
            on_failure=on_failure,
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            batch_s=batch_s,
            unacked_events=unacked_events,
        )

    def stream_events(self, batches: Iterable[EventBatch]) -> Generator[EventAck, None, None]:
        """See `ClickstreamClient.stream_events`. The batches are iterated in a thread of their own."""
        yield from self._background.converse(ClickstreamClient.stream_events, iter(batches))

    def import_sessions(
        self, config: ImportConfig, chunks: Iterable[ImportChunk]
    ) -> Generator[ImportProgress | ImportSummary, None, None]:
        """See `ClickstreamClient.import_sessions`. The chunks are iterated in a thread of their own."""
        yield from self._background.converse(lambda client, sent: client.import_sessions(config, sent), iter(chunks))

    def export_sessions(
        self,
        chosen: ExportFilter,
        *,
        events_limit: int | None = None,
        limit: int = 0,
        resume_token: str = "",
    ) -> Generator[ExportPage, None, None]:
        """See `ClickstreamClient.export_sessions`."""
        yield from self._background.iterate(
            lambda client: client.export_sessions(
                chosen, events_limit=events_limit, limit=limit, resume_token=resume_token
            )
        )


def _copied(kind: type[SyncClickstreamClient], access: Access, settings: dict[str, Any]) -> SyncClickstreamClient:
    return kind(**access.arguments, **settings)
