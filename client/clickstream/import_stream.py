"""A client's side of ImportSessions that survives lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from time import monotonic
from typing import Any

import grpc.aio

from clickstream import transfer_wire
from clickstream.call_errors import lost_connection
from clickstream.calling import check_size
from clickstream.errors import ClickstreamError, InvalidField, Unavailable
from clickstream.outbox import Outbox
from clickstream.resume import Patience
from clickstream.transfer import (
    NO_SEQUENCE,
    ImportChunk,
    ImportConfig,
    ImportProgress,
    ImportSummary,
    rising,
    too_many_failed,
)
from clickstream.v1 import transfer_service_pb2 as pb

CHUNKS_UNACKED_MAX = 8


class ImportStream:
    """Sends chunks, keeps what is not acknowledged, and sends it again over a new connection if one is lost.

    The account is that of the whole import: an item that was stored, but whose acknowledgement was lost, counts as a
    duplicate. A chunk that is larger than a message may be ends the import, after those before it.

    The service judges the items of one connection by the failure ratio. What counts is how the whole import does, so
    that is judged here, too: before each new connection, and where the service has stopped one. Each that was stopped
    brings 100 items at least, more of them failed than the ratio allows, so there is an end to going on.
    """

    def __init__(
        self,
        stub: Any,
        config: ImportConfig,
        *,
        deadline_s: float,
        patience: Patience,
        message_bytes_max: int,
        closed: Callable[[], bool],
    ) -> None:
        self._stub = stub
        self._closed = closed
        self._config = config
        self._config_request = _config_request(config)
        self._message_bytes_max = message_bytes_max
        self._patience = patience
        self._outbox = Outbox[pb.ImportSessionsRequest](deadline_s)
        self._changed = self._outbox.changed
        self._ended = False
        # The account up to the start of this connection, and up to now.
        self._before = self._now = ImportSummary()
        self._failed = self._connections = 0
        self._end: ImportSummary | None = None
        """What the service said in the end."""
        self._goes_on = False
        """Whether the latest connection has come to its end in order, and the import has not."""
        self._started_at = monotonic()

    async def run(self, chunks: AsyncIterable[ImportChunk]) -> AsyncGenerator[ImportProgress | ImportSummary, None]:
        """Yield progress and the summary; see `TransferDao.import_sessions`."""
        self._patience.renew()
        failure: ClickstreamError | None = None
        feeding = asyncio.create_task(self._feed(chunks))
        try:
            while (end := self._end) is None and not self._too_many_failed():
                try:
                    async with aclosing(self._converse()) as answers:
                        async for answer in answers:
                            yield answer
                    if self._end is not None or self._goes_on or self._outbox.left:
                        continue
                    failure = Unavailable("the service ended the import without a summary")
                except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                    failure = lost_connection(error, closed=self._closed())
                await self._patience.pause(failure, awaited=bool(self._outbox.unacked) or self._ended)
            if end is not None and not end.aborted:
                await feeding  # raises what was wrong with the chunks: then this is no account of them
            aborted = end is None or end.aborted or self._too_many_failed()
            elapsed_s = monotonic() - self._started_at
            yield replace(end or self._now, aborted=aborted, elapsed_s=elapsed_s, connections=self._connections)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            del failure, feeding  # what is raised has this frame, which held it until the garbage collector comes
        if aborted:  # said here: what comes after the summary is not read
            raise too_many_failed(self._failed, self._now.processed, self._config.max_failure_ratio)

    async def _feed(self, chunks: AsyncIterable[ImportChunk]) -> None:
        """Take chunks as long as not too many are unacknowledged.

        Their sequences have to rise here already: one that does not would be taken for acknowledged with another.
        """
        last = NO_SEQUENCE
        try:
            async for chunk in chunks:
                request = transfer_wire.import_chunk_to_pb(chunk)
                last = _rising(chunk, last)
                check_size(request, self._message_bytes_max)
                async with self._changed:
                    await self._changed.wait_for(lambda: len(self._outbox.unacked) < CHUNKS_UNACKED_MAX)
                    self._outbox.put(request)
        finally:
            async with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def _converse(self) -> AsyncGenerator[ImportProgress, None]:
        """One connection: what is not acknowledged, then what comes."""
        self._before, self._goes_on = self._now, False
        connections = self._connections + 1
        async with self._outbox.connected(self._stub.ImportSessions, self._requests) as call:
            async for message in call:
                self._patience.renew()
                self._connections = connections  # only now: the service may have refused some for its load
                answer = self._since_the_start(transfer_wire.import_answer_from_pb(message))
                if isinstance(answer, ImportSummary):
                    self._goes_on = self._stopped_alone() if answer.aborted else self._outbox.left
                    self._end = None if self._goes_on else answer
                    return
                await self._acknowledge(answer.acked_sequence)
                self._failed += len({failure.index for failure in answer.failures})
                self._now = ImportSummary(processed=answer.processed, sessions=answer.sessions, events=answer.events)
                yield answer

    def _stopped_alone(self) -> bool:
        """Whether the service has stopped this connection's share of an import that does well as a whole.

        Without progress its word stands, or this would never end.
        """
        return self._now.processed > self._before.processed and not self._too_many_failed()

    def _too_many_failed(self) -> bool:
        return self._config.stops_at(self._failed, self._now.processed)

    async def _requests(self, connection: int) -> AsyncIterator[pb.ImportSessionsRequest]:
        yield self._config_request
        async for request in self._outbox.messages(connection, self._chunk_comes):
            yield request

    async def _chunk_comes(self) -> bool:
        if not self._ended:
            await self._changed.wait()
            return True
        return False

    async def _acknowledge(self, sequence: int) -> None:
        async with self._changed:
            unacked = self._outbox.unacked
            while unacked and unacked[0].chunk.sequence <= sequence:
                unacked.popleft()
            self._changed.notify_all()

    def _since_the_start(self, answer: ImportProgress | ImportSummary) -> Any:
        """The answer with the counts and indexes of the whole import, not of this connection."""
        before = self._before
        whole = replace(
            answer,
            processed=before.processed + answer.processed,
            sessions=before.sessions.plus(answer.sessions),
            events=before.events.plus(answer.events),
        )
        if isinstance(whole, ImportProgress):
            moved = [
                failure.model_copy(update={"index": before.processed + failure.index}) for failure in whole.failures
            ]
            return replace(whole, failures=tuple(moved))
        return whole


def _rising(chunk: ImportChunk, last: int) -> int:
    try:
        return rising(chunk.sequence, last)
    except InvalidField as error:
        raise error.under("chunk") from None


def _config_request(config: ImportConfig) -> pb.ImportSessionsRequest:
    try:
        return pb.ImportSessionsRequest(config=transfer_wire.import_config_to_pb(config))
    except InvalidField as error:
        raise error.under("config") from None
