"""How an interceptor stands around a handler: once for handlers that answer once, once for those that stream.

A coroutine and an async generator must be wrapped differently: calling the generator runs nothing yet, so an error in
it is raised only while it is iterated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
HEALTH = "/grpc.health.v1.Health/"
Handler = Any
"""A `grpc.RpcMethodHandler`: a named tuple at run time, which its types do not say."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: `method` is its full name, as in `/clickstream.v1.ClickstreamService/GetBatch`."""

    method: str
    request: Any
    context: Context
    streams: bool


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that is an async context manager around each call."""

    @abstractmethod
    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """What happens before, after and on errors of a call."""

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
        sides = (handler.request_streaming, handler.response_streaming)
        field = "_".join("stream" if streams else "unary" for streams in sides)
        wrap = self._streaming if handler.response_streaming else self._answering
        return handler._replace(**{field: wrap(handler_call_details.method, getattr(handler, field))})

    def _answering(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            async with self.around(Call(method, request, context, streams=False)):
                return await behaviour(request, context)

        return answer

    def _streaming(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        # Writes instead of yielding: cancelled while it waits to send, it ends here, and not when the generator that
        # grpc has dropped is collected, in another task and without a status.
        async def stream(request: Any, context: Context) -> None:
            async with self.around(Call(method, request, context, streams=True)):
                answers = behaviour(request, context)
                if not hasattr(answers, "aclose"):  # a handler that writes to the context itself
                    await answers
                    return
                async with aclosing(answers):
                    async for answer in answers:
                        await context.write(answer)

        return stream
