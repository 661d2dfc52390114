"""The one interceptor: what stands around every call, in its order.

gRPC would run a list of interceptors for each call, and each would wrap the handler anew; here a handler is wrapped
once. With six interceptors all of this cost 226 µs a call with 64 in flight, now 70: docs/adr/0017-one-interceptor.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from clickstream.errors import ClickstreamError
from clickstream_server.call_record import begin_call, this_call
from clickstream_server.interceptors.auth import Auth
from clickstream_server.interceptors.call import Call, Context, Handler
from clickstream_server.interceptors.drain import Drain
from clickstream_server.interceptors.errors import answer_with, end_with
from clickstream_server.interceptors.limiter import Limiter
from clickstream_server.interceptors.observe import Observe
from clickstream_server.interceptors.parsing import Parsing
from clickstream_server.interceptors.trailers import set_trailers
from clickstream_server.message_dao import EncodedAnswer


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Each part is a context manager around a call, and may refuse it by raising.

    Errors stand outside of all that may raise, so that it reaches the client in the contract's form. What observes
    stands outside of them, and sees what the client gets.
    """

    def __init__(self, observe: Observe, parsing: Parsing, drain: Drain, auth: Auth, limiter: Limiter) -> None:
        self._observe = observe
        self._parsing = parsing
        self._drain = drain
        self._auth = auth
        self._limiter = limiter
        self._handlers: dict[str, Handler] = {}
        self._refusing: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        # gRPC runs the handler in the same task, after it has received the request: that wait counts, too.
        begin_call(handler_call_details.invocation_metadata or ())
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                self._observe.unknown()
                return None
            handler = self._handlers[method] = self._wrapped(method, handler)
            self._refusing[method] = grpc.stream_stream_rpc_method_handler(self._refusal(method))
        if not handler.response_streaming and self._limiter.full(method):
            return self._refusing[method]
        return handler

    def _wrapped(self, method: str, handler: Handler) -> Handler:
        both_ways = handler.request_streaming and handler.response_streaming
        handler = self._limiter.prepared(method, self._parsing.prepared(method, handler))
        handler = handler._replace(response_serializer=_or_encoded(handler.response_serializer))
        handler = self._observe.prepared(method, handler)
        sides = (handler.request_streaming, handler.response_streaming)
        field = "_".join("stream" if streams else "unary" for streams in sides)
        behaviour = getattr(handler, field)
        if handler.response_streaming:
            wrapped = self._streaming(method, behaviour, begins_at_once=both_ways)
        else:
            wrapped = self._answering(method, behaviour)
        return handler._replace(**{field: wrapped})

    def _answering(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(requests: Any, context: Context) -> Any:
            call = Call(method, context, this_call(), streams=False)
            with self._observe.around(call):
                set_trailers(call)
                try:
                    with self._drain.around(call), self._auth.around(call), self._limiter.around(call):
                        done = await behaviour(requests, context)
                except BaseException as error:
                    return await answer_with(call, error)
                set_trailers(call, timed=True)
                return done

        return answer

    def _refusal(self, method: str) -> Callable[..., Awaitable[None]]:
        # What a unary call ends with when there is no room: a stream, so that it reads and sends nothing.
        async def refuse(_: Any, context: Context) -> None:
            call = Call(method, context, this_call(), streams=False)
            try:
                self._drain.check(call)
                self._auth.around(call)
            except ClickstreamError as error:
                with self._observe.around(call):
                    await answer_with(call, error)
            else:
                end_with(call, self._limiter.refused())
                self._observe.refused(call)

        return refuse

    def _streaming(
        self, method: str, behaviour: Callable[..., Any], *, begins_at_once: bool
    ) -> Callable[..., Awaitable[None]]:
        # `begins_at_once`: send the headers before there is an answer. A client that opens a stream and waits for them
        # before it sends (tonic in Rust, say) would wait for ever for a server that waits for its first request. Not
        # where the client streams nothing: once it has headers, gRPC makes the call no second time.
        #
        # Writes instead of yielding: cancelled while it waits to send, it ends here, and not when the generator that
        # grpc has dropped is collected, in another task and without a status.
        #
        # gRPC notes that it sent the headers (else with the first answer) only once they have gone: a stream that ends
        # before could not be given a status, since that would send them again. So what sends them goes to its end,
        # outside of all that a stop waits for: who does not take it is cut off.
        async def stream(requests: Any, context: Context) -> None:
            call = Call(method, context, this_call(), streams=True)
            opening: asyncio.Future[None] | None = None
            with self._observe.around(call):
                set_trailers(call)
                try:
                    with self._drain.around(call), self._auth.around(call), self._limiter.around(call):
                        if begins_at_once:
                            opening = asyncio.ensure_future(context.send_initial_metadata(()))
                            await asyncio.shield(opening)
                        answers = behaviour(requests, context)
                        if not hasattr(answers, "aclose"):  # a handler that writes to the context itself
                            await answers
                            return
                        async with aclosing(answers):
                            async for answer in answers:
                                if opening is not None:
                                    await context.write(answer)
                                    continue
                                opening = asyncio.ensure_future(context.write(answer))
                                await asyncio.shield(opening)
                except BaseException as error:
                    if opening is not None and not opening.done():
                        opening.add_done_callback(_look_at)
                        await asyncio.wait([opening])
                    await answer_with(call, error)

        return stream


def _look_at(opening: asyncio.Future[None]) -> None:
    """Else asyncio complains of an error that nobody looked at."""
    if not opening.cancelled():
        opening.exception()


def _or_encoded(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """The serializer for answers of which some are encoded already."""

    def serialized(answer: Any) -> bytes:
        return answer.content if isinstance(answer, EncodedAnswer) else serialize(answer)

    return serialized
