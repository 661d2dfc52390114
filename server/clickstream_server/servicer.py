"""The service: one short method an RPC. It knows the interface and the wire, not MongoDB."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing

from google.protobuf.message import Message

from clickstream import wire
from clickstream.dao import DEFAULT_EVENTS_LIMIT
from clickstream.errors import BatchNotFound, InvalidField, MessageTooLarge, SessionNotFound
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import clickstream_service_pb2_grpc as pb_grpc
from clickstream.v1 import session_pb2
from clickstream.v1.outcome_pb2 import ItemFailure
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.interceptors.call import Context
from clickstream_server.message_dao import BatchQuery, EncodedAnswer, MessageDao, MessagePage

STREAM_MESSAGE_BYTES = 128 * 1024
"""A message of a stream is sent once it has this size: well below what any client takes, well above a packet.

Python makes models of the sessions of a small message faster: they are gone before its garbage collector has gone over
them several times. At 1 MiB a session took our client 67 us and more, now 63, on a busy machine.
"""

_ANSWER_BYTES = 1024
"""Room in a message for what else the answer says."""

_STATUSES_MAX = 100
"""Of the six that there are. To go through the eight million that a message can hold took a minute."""
_CHARS_KEPT = 32
"""Of a failure's id, and of its text, where whole ones would make an answer too large. An id may have a kilobyte."""


class ClickstreamServicer(pb_grpc.ClickstreamServiceServicer):
    """`clickstream.v1.ClickstreamService` over any MessageDao."""

    def __init__(self, dao: MessageDao, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._dao = dao
        self._message_bytes_max = message_bytes_max

    async def RegisterSession(self, request: pb.RegisterSessionRequest, context: Context) -> pb.RegisterSessionResponse:
        return await self._dao.register_session_message(_session(request))

    async def UpdateSession(self, request: pb.UpdateSessionRequest, context: Context) -> pb.UpdateSessionResponse:
        return pb.UpdateSessionResponse(session=await self._dao.update_session_message(_session(request)))

    async def PushEvents(self, request: pb.PushEventsRequest, context: Context) -> pb.PushEventsResponse:
        answer = wire.push_result_to_pb(await self._dao.push_event_messages(request.events))
        cut_failures(answer, answer.failures, self._message_bytes_max)
        return answer

    async def MarkSessionIrrelevant(
        self, request: pb.MarkSessionIrrelevantRequest, context: Context
    ) -> pb.MarkSessionIrrelevantResponse:
        marked = await self._dao.mark_session_irrelevant_message(request.session_id)
        return pb.MarkSessionIrrelevantResponse(session=marked)

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        limit = request.events_limit if request.HasField("events_limit") else DEFAULT_EVENTS_LIMIT
        found = await self._dao.get_session_message(request.session_id, events_limit=limit)
        if found is None:
            raise SessionNotFound.by_id(request.session_id)
        return pb.GetSessionResponse(session=fitting(found, self._message_bytes_max))

    async def GetBatchSessions(
        self, request: pb.GetBatchSessionsRequest, context: Context
    ) -> AsyncIterator[EncodedAnswer]:
        query = BatchQuery(
            batch_id=request.batch_id,
            after_number=request.after_number,
            limit=request.limit,
            events_limit=request.events_limit if request.HasField("events_limit") else None,
            exclude_irrelevant=request.exclude_irrelevant,
            follow=request.follow,
        )
        async with aclosing(self._dao.get_batch_messages(query)) as pages:
            async for page in pages:
                for answer in _answers(page, self._message_bytes_max):
                    yield answer

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        batch = await self._dao.get_batch(request.batch_id)
        if batch is None:
            raise BatchNotFound.by_id(request.batch_id)
        return pb.GetBatchResponse(batch=wire.batch_to_pb(batch))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        if (count := len(request.statuses)) > _STATUSES_MAX:
            raise InvalidField.at("statuses", f"must be {_STATUSES_MAX} at most, not {count}")
        found = await self._dao.list_batches(
            statuses=[
                wire.status_from_pb(status, f"statuses[{place}]") for place, status in enumerate(request.statuses)
            ],
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListBatchesResponse(
            batches=[wire.batch_to_pb(batch) for batch in found.batches], next_page_token=found.next_page_token
        )

    async def ReleaseBatch(self, request: pb.ReleaseBatchRequest, context: Context) -> pb.ReleaseBatchResponse:
        released = await self._dao.release_batch(request.release_id)
        return pb.ReleaseBatchResponse(
            batch=wire.batch_to_pb(released.batch), already_released=released.already_released
        )

    async def UpdateBatchStatus(
        self, request: pb.UpdateBatchStatusRequest, context: Context
    ) -> pb.UpdateBatchStatusResponse:
        expected = None
        if request.HasField("expected_status"):
            expected = wire.status_from_pb(request.expected_status, "expected_status")
        batch = await self._dao.update_batch_status(
            request.batch_id, wire.status_from_pb(request.status, "status"), expected_status=expected
        )
        return pb.UpdateBatchStatusResponse(batch=wire.batch_to_pb(batch))


def _session(request: pb.RegisterSessionRequest | pb.UpdateSessionRequest) -> session_pb2.Session:
    if not request.HasField("session"):
        raise InvalidField.at("session", "must be set")
    return request.session


def too_large(found: session_pb2.SessionWithEvents, bytes_max: int) -> MessageTooLarge:
    """The error for a session that no message can hold."""
    return MessageTooLarge(
        f"session {found.session.session_id!r} and its {len(found.events)} events do not fit into one message of "
        f"{bytes_max} bytes; read it with a smaller events_limit",
        resource_name=found.session.session_id,
    )


def fitting(found: session_pb2.SessionWithEvents, bytes_max: int) -> session_pb2.SessionWithEvents:
    """What was found, if a message can hold it. Raises MessageTooLarge."""
    if found.ByteSize() > bytes_max - _ANSWER_BYTES:
        raise too_large(found, bytes_max)
    return found


def cut_failures(answer: Message, failures: Iterable[ItemFailure], bytes_max: int) -> None:
    """Have an answer that tells of very many failures fit into a message: with the start of their ids only, and where
    that is not enough, of their texts, which begin with the place. Whoever has sent them knows them by their index.
    """
    if answer.ByteSize() > bytes_max:
        for failure in failures:
            failure.id = failure.id[:_CHARS_KEPT]
    if answer.ByteSize() > bytes_max:
        for failure in failures:
            failure.message = failure.message[:_CHARS_KEPT]


def _answers(page: MessagePage, bytes_max: int) -> Iterator[EncodedAnswer]:
    """A page as messages of a good size. Only the last carries `sealed`, and what the page says of its end.

    A session that does not fit into a message ends it with MessageTooLarge, after all that comes before it.
    """
    most = bytes_max - _ANSWER_BYTES
    packed: list[bytes] = []
    size = last_number = 0
    for found in page.sessions:
        if packed and size + len(found.content) > min(STREAM_MESSAGE_BYTES, most):
            yield _answer(packed, last_number, sealed=False)
            packed, size = [], 0
        if len(found.content) > most:
            raise too_large(found.session, bytes_max)
        packed.append(found.content)
        size += len(found.content)
        last_number = found.session_number
    yield _answer(packed, page.last_number, sealed=page.sealed)


def _answer(sessions: list[bytes], last_number: int, *, sealed: bool) -> EncodedAnswer:
    end = pb.GetBatchSessionsResponse(last_number=last_number, sealed=sealed)
    return EncodedAnswer(b"".join([*sessions, end.SerializeToString()]), len(sessions))
