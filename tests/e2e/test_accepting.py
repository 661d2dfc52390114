"""Calls are taken from gRPC several at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from clickstream_server.accepting import VERSION, Handlers, start
from harness import eventually

METHOD = "/test.Test/Call"
CALLS = 8


class Turns(grpc.aio.ServerInterceptor):
    """Counts the calls that come in one turn of the event loop: `most` at most so far."""

    def __init__(self) -> None:
        self._now = self.most = 0

    async def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        if not self._now:
            asyncio.get_running_loop().call_soon(self._over)
        self._now += 1
        self.most = max(self.most, self._now)
        return await continuation(details)

    def _over(self) -> None:
        self._now = 0


class Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(_echo) if details.method == METHOD else None


async def _echo(request: bytes, _: Any) -> bytes:
    return request


def test_the_pinned_version_is_the_one_that_this_is_made_for() -> None:
    """With the grpcio that is installed here calls come several at a time: a new one is to be looked at first."""
    assert grpc.__version__.startswith(VERSION)


async def test_calls_that_wait_come_together() -> None:
    """Calls that have come while the event loop was busy are handed over in one turn of it, and all are answered."""
    handlers, turns = Handlers(), Turns()
    handlers.add_generic_rpc_handlers([Echo()])
    server = grpc.aio.server(handlers=handlers.all, interceptors=[turns])
    port = server.add_insecure_port("127.0.0.1:0")
    await start(server, handlers, [turns])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:  # its threads go on while the event loop stands
            call = channel.unary_unary(METHOD)

            async def several_at_once() -> bool:
                answers = [call.future(str(number).encode()) for number in range(CALLS)]
                threading.Event().wait(0.05)
                assert [str(number).encode() for number in range(CALLS)] == [
                    await asyncio.to_thread(answer.result) for answer in answers
                ]
                return turns.most > 1

            await eventually(several_at_once, "several calls come in one turn")
    finally:
        await server.stop(0)
