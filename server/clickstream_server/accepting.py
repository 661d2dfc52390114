"""Takes calls from gRPC several at a time.

Its server for asyncio asks for one call, waits until a thread has handed it over, and only then asks for the next.
Meanwhile others wait inside of gRPC, where our limiter does not see them. With 16 asked for, a call that does nothing
takes 89 µs of the processor instead of 131 (64 in flight): docs/adr/0019-several-calls-at-a-time.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]

_log = logging.getLogger(__name__)
_AGAIN_S = 0.1
CALLS = 16
"""So many are asked for at a time. With 8 a call takes 3 µs more."""
VERSION = "1.75."
"""What is used here is no API of gRPC's, and other in later versions: these take one call at a time, as they do."""


class Handlers:
    """`all`: what a server is to be made with. Servicers are added to it as they would be to the server."""

    def __init__(self) -> None:
        self.all: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.all.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The same ones once more, of which this kind of server makes nothing."""


async def start(
    server: grpc.aio.Server, handlers: Handlers, interceptors: Sequence[grpc.aio.ServerInterceptor]
) -> None:
    """Start the server, which was made with these, and ask for more calls than it asks for by itself."""
    await server.start()
    if not grpc.__version__.startswith(VERSION):
        return
    loop = asyncio.get_running_loop()
    inner: Any = server._server  # type: ignore[attr-defined]  # its types know its API only
    tasks: set[asyncio.Task[None]] = set()  # the loop itself would not keep them

    def begin(work: Coroutine[Any, Any, None]) -> None:
        tasks.add(task := loop.create_task(work))
        task.add_done_callback(tasks.discard)

    async def accept() -> None:
        while inner.is_running():
            try:
                state = await inner._request_call()
            except Exception:  # mostly the server stops; gRPC has no public name for it
                if not inner.is_running():
                    return
                _log.exception("gRPC could not hand over a call")
                await asyncio.sleep(_AGAIN_S)
                continue
            call = cygrpc._handle_rpc(handlers.all, tuple(interceptors), state, loop, False)
            begin(cygrpc._schedule_rpc_coro(call, state, loop))

    for _ in range(CALLS - 1):
        begin(accept())
