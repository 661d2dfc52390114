"""How an interceptor stands around a handler: once for handlers that answer once, once for those that stream.

A coroutine and an async generator must be wrapped differently: calling the generator runs nothing yet, so an error in
it is raised only while it is iterated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any
"""A `grpc.RpcMethodHandler`: a named tuple at run time, which its types do not say."""


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that is an async context manager around each call."""

    @abstractmethod
    def around(self, request: Any, context: Context, *, streams: bool) -> AbstractAsyncContextManager[None]:
        """What happens before, after and on errors of a call. `streams`: it answers with a stream."""

    def prepared(self, handler: Handler) -> Handler:
        """The handler before it is wrapped; a place to change how it reads requests."""
        return handler

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        handler = self.prepared(handler)
        if handler.response_streaming:
            field = "stream_stream" if handler.request_streaming else "unary_stream"
            return handler._replace(**{field: self._streaming(getattr(handler, field))})
        field = "stream_unary" if handler.request_streaming else "unary_unary"
        return handler._replace(**{field: self._answering(getattr(handler, field))})

    def _answering(self, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            async with self.around(request, context, streams=False):
                return await behaviour(request, context)

        return answer

    def _streaming(self, behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self.around(request, context, streams=True):
                async for answer in behaviour(request, context):
                    yield answer

        return stream
