"""Asks for a token, before the request is even read; ends streams whose token counts no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc

from clickstream.errors import ClickstreamError
from clickstream_server.call_record import call_record
from clickstream_server.interceptors.wrapping import AroundInterceptor, Call, Handler
from clickstream_server.security.gate import Gate, Refusal
from clickstream_server.security.roles import is_open, roles_for
from clickstream_server.security.tokens import TokenLine

_found: ContextVar[TokenLine | Refusal | None] = ContextVar("clickstream_caller", default=None)
"""What the gate said of the call that runs in this task."""


@dataclass(slots=True)
class _Stream:
    """A stream that runs. `ended`: why it was ended, once it was."""

    method: str
    caller: TokenLine
    ended: ClickstreamError | None = None


class AuthInterceptor(AroundInterceptor):
    """Stands outside of the limiter, so that strangers take no room from callers.

    Its maker must call `look_again` when tokens may have changed or expired.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._streams: dict[asyncio.Task[Any], _Stream] = {}

    def look_again(self) -> None:
        """End the streams of those who may go on no longer. Calls that answer once run to their end: it is near."""
        for task, stream in self._streams.items():
            if stream.ended is None:
                stream.ended = self._gate.ended(stream.caller, roles_for(stream.method), stream.method)
                if stream.ended is not None:
                    task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        if is_open(method):
            return await continuation(handler_call_details)
        headers = _authorization(handler_call_details.invocation_metadata or ())
        found = self._gate.check(headers, roles_for(method), method)
        _found.set(found)  # gRPC runs the handler in the same task
        if (record := call_record()) is not None and found is not None:
            record.caller = found.caller if isinstance(found, Refusal) else found.name
        return await super().intercept_service(continuation, handler_call_details)

    def prepared(self, handler: Handler) -> Handler:
        return handler._replace(request_deserializer=None) if isinstance(_found.get(), Refusal) else handler

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        found = _found.get()
        if isinstance(found, Refusal):
            self._gate.report(found, call.context.peer())
            raise found.error
        task = asyncio.current_task()
        if found is None or task is None or not call.streams:
            yield
            return
        stream = self._streams[task] = _Stream(call.method, found)
        try:
            yield
        except asyncio.CancelledError:
            if stream.ended is None or call.context.cancelled():
                raise
            self._gate.report(Refusal(stream.ended, found.name, call.method), call.context.peer())
            raise stream.ended from None
        finally:
            del self._streams[task]


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> list[str | bytes]:
    return [value for key, value in metadata if key == "authorization"]
