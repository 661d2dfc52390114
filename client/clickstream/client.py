"""ClickstreamClient: the interface over the network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import Message

from clickstream import forks, transfer_wire, wire
from clickstream.access import Access
from clickstream.call_errors import client_closed, failure_of, is_task_cancelled
from clickstream.calling import Caller, check_deadlines, check_size, written
from clickstream.channel import channel_options
from clickstream.credentials import Tls, Token
from clickstream.dao import DEFAULT_EVENTS_LIMIT, ClickstreamDao
from clickstream.errors import (
    BatchNotFound,
    IncompleteExport,
    InvalidField,
    NoCollectingBatch,
    SessionNotFound,
)
from clickstream.event_stream import EventStream, FailureHandler
from clickstream.export import ExportAccount, ExportFilter, ExportPage
from clickstream.import_stream import ImportStream
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
from clickstream.reading import go_on_batch, go_on_export, resumed
from clickstream.resume import Patience
from clickstream.transfer import (
    EventAck,
    EventBatch,
    ImportChunk,
    ImportConfig,
    ImportProgress,
    ImportSummary,
    TransferDao,
)
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceStub
from clickstream.values import INT32_MAX, MESSAGE_BYTES_MAX
from clickstream.wire_values import message_of

DEFAULT_TARGET = "127.0.0.1:50051"


class ClickstreamClient(ClickstreamDao, TransferDao):
    """A connection to the service; one is enough for a process. Made and used inside one event loop.

        async with ClickstreamClient("127.0.0.1:50051") as client:
            done = await client.register_session(Session(session_id="s-1", search_query="lamp"))

    Every call has a deadline (`deadline_s`; `stream_deadline_s` for one connection of a stream) and is tried up to four
    times while the service is unavailable, if that is safe. A call that the server refuses for its load is made again
    after the delay that the server names, within its deadline. Once a thousand more calls of a method were refused than
    accepted, refused ones raise Overloaded at once, and some are not even sent, until the server accepts what it gets.
    A stream that loses its connection resumes by itself after the last number that came, until nothing has come for
    `stream_resume_s`. `message_bytes_max`: how large a message may be; set it where the server's
    CLICKSTREAM_MESSAGE_BYTES_MAX is not the default.

    `tls`: True trusts the authorities that gRPC brings; a `Tls` names another, and what to show the server. `token`:
    for a server that asks for one; a callable, such as a `TokenFile`, returns the current one. Without TLS it is sent
    to this machine only, unless `token_in_clear`: otherwise ValueError.
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
        check_deadlines(deadline_s=deadline_s, stream_deadline_s=stream_deadline_s)
        if not stream_resume_s >= 0:
            raise ValueError(f"stream_resume_s must be 0 seconds or more, not {stream_resume_s}")
        self.target = target
        self._access = Access.of(target, token, tls=tls, token_in_clear=token_in_clear)
        self._message_bytes_max = message_bytes_max
        self._caller = Caller(deadline_s=deadline_s, message_bytes_max=message_bytes_max, closed=lambda: self._closed)
        self._stream_deadline_s = stream_deadline_s
        self._stream_resume_s = stream_resume_s
        self._closed = False

    @cached_property
    def _channel(self) -> Any:
        if self._closed:  # what is opened now would never be closed
            raise client_closed()
        forks.connecting()
        return self._access.channel(channel_options(self._message_bytes_max))

    @cached_property
    def _stub(self) -> Any:
        return ClickstreamServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    @cached_property
    def _transfer(self) -> Any:
        return TransferServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls that still run end with Cancelled."""
        self._closed = True
        if "_channel" in self.__dict__:
            await self._channel.close()

    async def register_session(self, session: Session) -> Registration:
        request = pb.RegisterSessionRequest(session=_session_to_pb(session))
        answer: pb.RegisterSessionResponse = await self._caller.answer(self._stub.RegisterSession, request)
        return Registration(
            session=wire.registered_session_from_pb(answer.session), outcome=wire.outcome_from_pb(answer.outcome)
        )

    async def update_session(self, session: Session) -> RegisteredSession:
        request = pb.UpdateSessionRequest(session=_session_to_pb(session))
        answer: pb.UpdateSessionResponse = await self._caller.answer(self._stub.UpdateSession, request)
        return wire.registered_session_from_pb(answer.session)

    async def push_events(self, events: Sequence[SessionEvent | InvalidField]) -> PushResult:
        request = pb.PushEventsRequest()
        for place, event in enumerate(events):
            request.events.append(_event_to_pb(event, f"events[{place}]"))
        return wire.push_result_from_pb(await self._caller.answer(self._stub.PushEvents, request))

    async def mark_session_irrelevant(self, session_id: str) -> RegisteredSession:
        request = message_of(pb.MarkSessionIrrelevantRequest, session_id=session_id)
        answer: pb.MarkSessionIrrelevantResponse = await self._caller.answer(self._stub.MarkSessionIrrelevant, request)
        return wire.registered_session_from_pb(answer.session)

    async def get_session(
        self, session_id: str, *, events_limit: int | None = DEFAULT_EVENTS_LIMIT
    ) -> SessionWithEvents | None:
        """See `ClickstreamDao.get_session`. `events_limit` None asks for all, which a message may be too small for."""
        limit = INT32_MAX if events_limit is None else events_limit
        request = message_of(pb.GetSessionRequest, session_id=session_id, events_limit=limit)
        try:
            answer: pb.GetSessionResponse = await self._caller.answer(self._stub.GetSession, request)
        except SessionNotFound:
            return None
        return wire.session_with_events_from_pb(answer.session)

    async def get_batch_pages(
        self,
        batch_id: str,
        *,
        after_number: int = 0,
        limit: int = 0,
        events_limit: int | None = None,
        exclude_irrelevant: bool = False,
        follow: bool = False,
    ) -> AsyncGenerator[SessionPage, None]:
        if follow and not batch_id:
            # Asked for once: when the stream is resumed, "the one that collects now" may be another batch.
            collecting = (await self.list_batches(statuses=[SessionBatchStatus.COLLECTING])).batches
            if not collecting:
                raise NoCollectingBatch.now()
            batch_id = collecting[0].batch_id
        request = message_of(
            pb.GetBatchSessionsRequest,
            batch_id=batch_id,
            after_number=after_number,
            limit=limit,
            events_limit=events_limit,
            exclude_irrelevant=exclude_irrelevant,
            follow=follow,
        )
        async with aclosing(self._batch_messages(request)) as answers:
            async for answer in answers:
                yield SessionPage(
                    sessions=tuple(map(wire.session_with_events_from_pb, answer.sessions)),
                    last_number=answer.last_number,
                    sealed=answer.sealed,
                )

    def _batch_messages(self, request: pb.GetBatchSessionsRequest) -> AsyncGenerator[pb.GetBatchSessionsResponse, None]:
        """As `get_batch_pages`, with the answers as they come: for `clickstream.datasets`, which holds many."""
        return self._read(self._stub.GetBatchSessions, request, go_on_batch)

    async def get_batch(self, batch_id: str) -> SessionBatch | None:
        try:
            answer: pb.GetBatchResponse = await self._caller.answer(
                self._stub.GetBatch, message_of(pb.GetBatchRequest, batch_id=batch_id)
            )
        except BatchNotFound:
            return None
        return wire.batch_from_pb(answer.batch)

    async def list_batches(
        self, *, statuses: Sequence[SessionBatchStatus] = (), page_size: int = 0, page_token: str = ""
    ) -> BatchList:
        request = message_of(
            pb.ListBatchesRequest,
            statuses=[wire.status_to_pb(status, f"statuses[{place}]") for place, status in enumerate(statuses)],
            page_size=page_size,
            page_token=page_token,
        )
        answer: pb.ListBatchesResponse = await self._caller.answer(self._stub.ListBatches, request)
        return BatchList(batches=tuple(map(wire.batch_from_pb, answer.batches)), next_page_token=answer.next_page_token)

    async def release_batch(self, release_id: str) -> BatchRelease:
        request = message_of(pb.ReleaseBatchRequest, release_id=release_id)
        answer: pb.ReleaseBatchResponse = await self._caller.answer(self._stub.ReleaseBatch, request)
        return BatchRelease(batch=wire.batch_from_pb(answer.batch), already_released=answer.already_released)

    async def update_batch_status(
        self, batch_id: str, status: SessionBatchStatus, *, expected_status: SessionBatchStatus | None = None
    ) -> SessionBatch:
        request = message_of(
            pb.UpdateBatchStatusRequest,
            batch_id=batch_id,
            status=wire.status_to_pb(status),
            expected_status=None if expected_status is None else wire.status_to_pb(expected_status, "expected_status"),
        )
        answer: pb.UpdateBatchStatusResponse = await self._caller.answer(self._stub.UpdateBatchStatus, request)
        return wire.batch_from_pb(answer.batch)

    def event_stream(
        self,
        *,
        on_failure: FailureHandler | None = None,
        batch_events: int = 1_000,
        batch_bytes: int = 1024 * 1024,
        batch_s: float = 0.05,
        unacked_events: int = 20_000,
    ) -> EventStream:
        """Open a long-lived stream of events, for producers with many; see `EventStream`.

        A request is sent at `batch_events` or `batch_bytes`, before it would be larger than a message may be, and after
        `batch_s` seconds at the latest; `send` waits while `unacked_events` are not durable yet. More `batch_events`
        than the server takes in a request (10,000, unless it is set otherwise) end the stream once so many come at a
        time.
        """
        forks.check()
        return EventStream(
            self._transfer,
            on_failure=on_failure,
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            batch_s=batch_s,
            unacked_events=unacked_events,
            deadline_s=self._stream_deadline_s,
            patience=self._patience(),
            message_bytes_max=self._message_bytes_max,
            closed=lambda: self._closed,
        )

    async def stream_events(self, batches: AsyncIterable[EventBatch]) -> AsyncGenerator[EventAck, None]:
        """Store batches over one connection, as they come. Producers want `event_stream`, which survives its loss."""
        failed: list[Exception] = []

        async def requests() -> AsyncIterator[pb_transfer.StreamEventsRequest]:
            try:
                async for batch in batches:
                    events = [_event_to_pb(event, f"events[{place}]") for place, event in enumerate(batch.events)]
                    request = pb_transfer.StreamEventsRequest(sequence=batch.sequence, events=events)
                    check_size(request, self._message_bytes_max)
                    yield request
            except Exception as error:  # gRPC would make a cancelled call of it
                failed.append(error)
                raise

        call = written(self._transfer.StreamEvents, requests(), self._stream_deadline_s)
        try:
            async for answer in call:
                yield transfer_wire.event_ack_from_pb(answer)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            if failed:
                raise failed.pop() from None  # which then has no frame that holds it
            if isinstance(error, grpc.aio.AioRpcError):
                raise failure_of(error) from error
            if is_task_cancelled():
                raise
            raise client_closed() from error
        finally:
            call.cancel()

    async def import_sessions(
        self, config: ImportConfig, chunks: AsyncIterable[ImportChunk]
    ) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        """See `TransferDao.import_sessions`. Survives lost connections: what is not acknowledged is sent again."""
        forks.check()
        stream = ImportStream(
            self._transfer,
            config,
            deadline_s=self._stream_deadline_s,
            patience=self._patience(),
            message_bytes_max=self._message_bytes_max,
            closed=lambda: self._closed,
        )
        async with aclosing(stream.run(chunks)) as answers:
            async for answer in answers:
                yield answer

    async def export_sessions(
        self,
        chosen: ExportFilter,
        *,
        events_limit: int | None = None,
        limit: int = 0,
        resume_token: str = "",
    ) -> AsyncGenerator[ExportPage, None]:
        """See `TransferDao.export_sessions`. Survives lost connections, and checks what came against the trailer.

        Raises IncompleteExport if they disagree.
        """
        request = message_of(
            pb_transfer.ExportSessionsRequest,
            filter=_filter_to_pb(chosen),
            events_limit=events_limit,
            limit=limit,
            resume_token=resume_token,
        )
        account = None if resume_token else ExportAccount()
        complete = False
        async with aclosing(self._read(self._transfer.ExportSessions, request, go_on_export)) as answers:
            async for answer in answers:
                page = transfer_wire.export_page_from_pb(answer)
                account = account and account.after(page.sessions)
                complete = page.trailer is not None
                if complete and account is not None and page.trailer != account:
                    raise IncompleteExport("what came does not agree with the trailer; export again")
                yield page
        if not complete:
            raise IncompleteExport("the export ended without its trailer; export again")

    def _read(self, method: Any, request: Message, go_on: Callable[[Any, Any], bool]) -> AsyncGenerator[Any, None]:
        return resumed(method, request, go_on, deadline_s=self._stream_deadline_s, patience=self._patience())

    def _patience(self) -> Patience:
        return Patience(self._stream_resume_s, token_changes=callable(self._access.token))


def _filter_to_pb(chosen: ExportFilter) -> pb_transfer.ExportFilter:
    try:
        return transfer_wire.export_filter_to_pb(chosen)
    except InvalidField as error:
        raise error.under("filter") from None


def _session_to_pb(session: Session) -> session_pb2.Session:
    try:
        return wire.session_to_pb(session)
    except InvalidField as error:
        raise error.under("session") from None


def _event_to_pb(event: SessionEvent | InvalidField, path: str) -> event_pb2.SessionEvent:
    if isinstance(event, InvalidField):
        raise event  # an event that could not be read cannot be sent
    try:
        return wire.event_to_pb(event)
    except InvalidField as error:
        raise error.under(path) from None
