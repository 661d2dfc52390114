"""The trailing metadata of every answer: the call's id, and for calls that answer once where their time went."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import grpc

from clickstream_server.call_record import REQUEST_ID, SERVER_TIMING, CallRecord, begin_call, call_record
from clickstream_server.interceptors.wrapping import AroundInterceptor, Call, Handler

_SANE = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")
"""An id of the caller's own. It goes into the log, so nothing that could pass for another line of it."""


class TrailerInterceptor(AroundInterceptor):
    """Begins the record of each call; answers with it. Errors take it along by themselves: see `trailers`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        # gRPC runs the handler in the same task, after it has received the request: that wait counts, too.
        begin_call(_request_id(handler_call_details.invocation_metadata or ()))
        return await super().intercept_service(continuation, handler_call_details)

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        call.context.set_trailing_metadata(trailers(timed=False))  # for answers that gRPC's own services abort
        yield
        if not call.streams:
            call.context.set_trailing_metadata(trailers(timed=True))


def request_id() -> str:
    """The id of the call that runs now."""
    return _this_call().request_id


def trailers(*, timed: bool) -> tuple[tuple[str, str], ...]:
    """The metadata for the call that runs now. `timed`: with what its time went into so far."""
    record = _this_call()
    own = (REQUEST_ID, record.request_id)
    return (own, (SERVER_TIMING, record.server_timing())) if timed else (own,)


def _this_call() -> CallRecord:
    record = call_record()
    assert record is not None, "the interceptor that begins calls stands outermost"
    return record


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's own id, if it is one that a log can take, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and _SANE.fullmatch(value):
            return value
    return secrets.token_hex(8)
