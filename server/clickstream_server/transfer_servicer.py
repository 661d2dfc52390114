"""The bulk service: one short method an RPC. It knows the interface and the wire, not MongoDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from clickstream import wire
from clickstream.transfer import EventBatch, TransferDao
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.v1 import transfer_service_pb2_grpc as pb_grpc
from clickstream_server.interceptors.wrapping import Context


class TransferServicer(pb_grpc.TransferServiceServicer):
    """`clickstream.v1.TransferService` over any TransferDao."""

    def __init__(self, dao: TransferDao) -> None:
        self._dao = dao

    async def StreamEvents(
        self, request_iterator: AsyncIterator[pb.StreamEventsRequest], context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        batches = (
            EventBatch(request.sequence, wire.events_from_pb(request.events)) async for request in request_iterator
        )
        async with aclosing(self._dao.stream_events(batches)) as acks:
            async for ack in acks:
                yield wire.event_ack_to_pb(ack)
