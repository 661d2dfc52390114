"""Bulk services that do not behave: real servers that end, refuse or ignore the streams of a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from clickstream import (
    ClickstreamClient,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportProgress,
    ImportSummary,
    Session,
    SessionEvent,
)
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.v1.transfer_service_pb2_grpc import TransferServiceServicer, add_TransferServiceServicer_to_server
from harness import PATIENCE_S

CONFIG = ImportConfig(import_id="i")


class Service(TransferServiceServicer):
    """Acknowledges what it gets, `answers` requests a connection at most, and then ends the stream with OK."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.connections = 0
        self.left = 0

    async def StreamEvents(  # noqa: N802  # gRPC's name
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        self.connections += 1
        for _ in range(self.answers):
            if (request := await anext(requests, None)) is None:
                self.left += 1
                return
            yield pb.StreamEventsResponse(acked_sequence=request.sequence, inserted=len(request.events))

    async def ImportSessions(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[pb.ImportSessionsResponse]:
        self.connections += 1
        await anext(requests)
        processed = 0
        for _ in range(self.answers):
            if (request := await anext(requests, None)) is None:
                self.left += 1
                yield pb.ImportSessionsResponse(summary=pb.ImportSummary(processed=processed))
                return
            processed += len(request.chunk.items)
            yield pb.ImportSessionsResponse(
                progress=pb.ImportProgress(acked_sequence=request.chunk.sequence, processed=processed)
            )


class Refusing(TransferServiceServicer):
    """Refuses every stream once it has read so many requests, while more of them come."""

    def __init__(self, reads: int) -> None:
        self._reads = reads
        self.connections = 0

    async def StreamEvents(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.connections += 1
        for _ in range(self._reads):
            await anext(requests)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not with this role")
        yield

    ImportSessions = StreamEvents


class Silent(Service):
    """Reads, and never answers."""

    async def StreamEvents(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802
        self.connections += 1
        async for _ in requests:
            pass

    ImportSessions = StreamEvents


@asynccontextmanager
async def client_of(
    service: TransferServiceServicer, *, patience_s: float = PATIENCE_S, **options: float
) -> AsyncIterator[ClickstreamClient]:
    """A client of a server with this service, for so long at most."""
    server = grpc.aio.server()
    add_TransferServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(patience_s), ClickstreamClient(f"127.0.0.1:{port}", **options) as client:
            yield client
    finally:
        await server.stop(0)


def chunk(number: int) -> ImportChunk:
    return ImportChunk(number, [ImportItem(Session(session_id=str(number)))])


async def chunks(count: int) -> AsyncIterator[ImportChunk]:
    for number in range(1, count + 1):
        yield chunk(number)


def event(number: int) -> SessionEvent:
    return SessionEvent(session_id="s", event_id=str(number), object_id="o")


async def import_five(client: ClickstreamClient) -> int:
    async with aclosing(client.import_sessions(CONFIG, chunks(5))) as answers:
        *progress, summary = [answer async for answer in answers]
    assert isinstance(summary, ImportSummary)
    assert [1, 2, 3, 4, 5] == [one.acked_sequence for one in progress if isinstance(one, ImportProgress)]
    return summary.processed


async def send_five(client: ClickstreamClient) -> int:
    async with client.event_stream(batch_events=1) as stream:
        for number in range(5):
            await stream.send(event(number))
        return (await stream.flush()).inserted


Work = Callable[[ClickstreamClient], Any]
BOTH = pytest.mark.parametrize("work", [import_five, send_five])
