"""The bulk service: one short method an RPC. It knows the interface and the wire, not MongoDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from clickstream import transfer_wire
from clickstream.errors import InvalidField
from clickstream.export import ExportFilter
from clickstream.transfer import ImportConfig
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.v1 import transfer_service_pb2_grpc as pb_grpc
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.interceptors.call import Context
from clickstream_server.message_dao import ChunkParts, EncodedAnswer, MessageDao, SentChunk
from clickstream_server.servicer import cut_failures, too_large


class TransferServicer(pb_grpc.TransferServiceServicer):
    """`clickstream.v1.TransferService` over any MessageDao."""

    def __init__(self, dao: MessageDao, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._dao = dao
        self._message_bytes_max = message_bytes_max

    async def StreamEvents(
        self, request_iterator: AsyncIterator[pb.StreamEventsRequest], context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        async with aclosing(self._dao.stream_event_messages(request_iterator)) as acks:
            async for ack in acks:
                answer = transfer_wire.event_ack_to_pb(ack)
                cut_failures(answer, answer.failures, self._message_bytes_max)
                yield answer

    async def ImportSessions(
        self, request_iterator: AsyncIterator[pb.ImportSessionsRequest], context: Context
    ) -> AsyncIterator[pb.ImportSessionsResponse]:
        config = await _config(request_iterator)
        async with aclosing(self._dao.import_session_messages(config, _chunks(request_iterator))) as answers:
            async for told in answers:
                answer = transfer_wire.import_answer_to_pb(told)
                cut_failures(answer, answer.progress.failures, self._message_bytes_max)
                yield answer

    async def ExportSessions(self, request: pb.ExportSessionsRequest, context: Context) -> AsyncIterator[EncodedAnswer]:
        answers = self._dao.export_messages(
            _filter(request),
            events_limit=request.events_limit if request.HasField("events_limit") else None,
            limit=request.limit,
            resume_token=request.resume_token,
        )
        async with aclosing(answers):
            async for answer in answers:
                if len(answer.content) > self._message_bytes_max:  # then it holds one session: a page is much smaller
                    (exported,) = pb.ExportSessionsResponse.FromString(answer.content).sessions
                    raise too_large(exported.session, self._message_bytes_max)
                yield answer


def _filter(request: pb.ExportSessionsRequest) -> ExportFilter:
    try:
        return transfer_wire.export_filter_from_pb(request.filter)
    except InvalidField as error:
        raise error.under("filter") from None


async def _config(requests: AsyncIterator[pb.ImportSessionsRequest | ChunkParts]) -> ImportConfig:
    first = await anext(requests, None)
    if first is None or isinstance(first, ChunkParts) or not first.HasField("config"):
        raise InvalidField.at("config", "must be set in the first request")
    try:
        return transfer_wire.import_config_from_pb(first.config)
    except InvalidField as error:
        raise error.under("config") from None


async def _chunks(requests: AsyncIterator[pb.ImportSessionsRequest | ChunkParts]) -> AsyncIterator[SentChunk]:
    async for request in requests:
        if isinstance(request, ChunkParts):
            yield request
            continue
        if not request.HasField("chunk"):
            raise InvalidField.at("chunk", "must be set in every request after the first")
        yield request.chunk
