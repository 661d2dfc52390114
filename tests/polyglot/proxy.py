"""A proxy that stands between a client and a real server, and refuses calls or changes answers as a test needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from clickstream.errors import ClickstreamError, to_status

Change = Callable[[str, bytes], bytes]
Refuse = Callable[[str, bytes], ClickstreamError | None]


def as_it_is(_method: str, answer: bytes) -> bytes:
    return answer


def never(_method: str, _request: bytes) -> None:
    return None


class _Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Forwards bytes. On the wire, a call with one answer and one with many are alike."""

    def __init__(self, channel: grpc.aio.Channel, refuse: Refuse, change: Change) -> None:
        self._channel = channel
        self._refuse = refuse
        self._change = change

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = details.method
        method = path.rpartition("/")[2]

        async def forward(request: bytes, context: Any) -> AsyncIterator[bytes]:
            if error := self._refuse(method, request):
                details = (("grpc-status-details-bin", to_status(error).SerializeToString()),)
                await context.abort(error.code, error.message, details)
            call = self._channel.unary_stream(path)(request, timeout=context.time_remaining())
            try:
                async for answer in call:
                    yield self._change(method, answer)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details(), tuple(error.trailing_metadata() or ()))

        return grpc.unary_stream_rpc_method_handler(forward)


@asynccontextmanager
async def proxy_to(target: str, *, refuse: Refuse = never, change: Change = as_it_is) -> AsyncIterator[str]:
    """Stand before the server at this address; yield the address to call."""
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([_Proxy(channel, refuse, change)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(grace=None)
