"""Streams that are read: they go on over another connection where the one before ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from clickstream.call_errors import client_closed, failure_of, is_task_cancelled
from clickstream.calling import started
from clickstream.resume import Patience
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import transfer_service_pb2 as pb_transfer


async def resumed(
    method: Any, request: Message, go_on: Callable[[Any, Any], bool], *, deadline_s: float, patience: Patience
) -> AsyncGenerator[Any, None]:
    """The answers of a stream, over as many connections as it takes, each with this deadline.

    `go_on` makes the request one for what comes after an answer; False if nothing does.
    """
    while True:
        call = started(method, request, deadline_s)
        try:
            async for answer in call:
                patience.renew()
                more = go_on(request, answer)
                yield answer
                if not more:
                    return
            return
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
            if not patience.allows(failure):
                try:
                    raise failure from error
                finally:
                    del failure  # its traceback has this frame, which held it until the garbage collector comes
        except asyncio.CancelledError as error:
            if is_task_cancelled():
                raise
            raise client_closed() from error
        finally:
            call.cancel()
        await patience.wait(failure)


def go_on_batch(request: pb.GetBatchSessionsRequest, answer: pb.GetBatchSessionsResponse) -> bool:
    """Make the request one for what comes after the answer; False if nothing does."""
    request.after_number = answer.last_number
    return not answer.sealed and _lower_limit(request, len(answer.sessions))


def go_on_export(request: pb_transfer.ExportSessionsRequest, answer: pb_transfer.ExportSessionsResponse) -> bool:
    """Make the request one for what comes after the answer; False if nothing does."""
    request.resume_token = answer.resume_token
    return not answer.HasField("trailer") and _lower_limit(request, len(answer.sessions))


def _lower_limit(request: Any, came: int) -> bool:
    """Lower the limit, if there is one, by what came; False if it is used up."""
    if not request.limit:
        return True
    request.limit -= came
    return bool(request.limit)
