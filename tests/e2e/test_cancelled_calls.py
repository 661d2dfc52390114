"""What is left of calls that are cancelled, or fail: nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from clickstream import (
    ClickstreamClient,
    ClickstreamError,
    EventBatch,
    ImportChunk,
    ImportConfig,
    InvalidField,
    Overloaded,
    SyncClickstreamClient,
)
from clickstream.errors import to_status
from harness import eventually

Call = Callable[[ClickstreamClient], Awaitable[Any]]
SyncCall = Callable[[SyncClickstreamClient], Any]


async def _call(client: ClickstreamClient) -> None:
    await client.list_batches()


async def _read(client: ClickstreamClient) -> None:
    async with aclosing(client.get_batch_pages("b")) as pages:
        await anext(pages)


async def _stream(client: ClickstreamClient) -> None:
    async with aclosing(client.stream_events(_without_end(EventBatch(1, [])))) as acks:
        await anext(acks)


async def _import(client: ClickstreamClient) -> None:
    async with aclosing(client.import_sessions(ImportConfig(import_id="i"), _without_end(ImportChunk(1, [])))) as found:
        await anext(found)


async def _without_end(*sent: Any) -> AsyncIterator[Any]:
    for one in sent:
        yield one
    await asyncio.Event().wait()


class Held:
    """Something that the frame of a call holds."""


@pytest.mark.parametrize("call", [_call, _read, _stream, _import])
async def test_a_cancelled_call_leaves_nothing_behind(call: Call) -> None:
    """What the frames of a cancelled call held is free once its error is, without the garbage collector's help."""
    accepted: list[asyncio.StreamWriter] = []
    held: list[weakref.ref[Held]] = []

    async def calling(client: ClickstreamClient) -> None:
        here = Held()
        held.append(weakref.ref(here))
        await call(client)

    async def connected() -> bool:
        return bool(accepted)

    async def free() -> bool:
        return held[0]() is None

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)  # and never answer

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, ClickstreamClient(f"127.0.0.1:{port}", deadline_s=60) as client:
        task = asyncio.create_task(calling(client))
        await eventually(connected, "it is on its way")
        gc.disable()
        try:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            del task
            await eventually(free, "the frame is free")
        finally:
            gc.enable()
            for writer in accepted:
                writer.close()


async def _stream_of_faulty(client: ClickstreamClient) -> None:
    async def faulty() -> AsyncIterator[EventBatch]:
        raise InvalidField.at("meta", "is too large")
        yield

    async with aclosing(client.stream_events(faulty())) as acks:
        await anext(acks)


class Refusing(grpc.GenericRpcHandler):
    """Ends every call with this error, once so many messages have come: gRPC may lose it to what is still written."""

    def __init__(self, error: ClickstreamError, after: int) -> None:
        self._error = error
        self._after = after

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            for _ in range(self._after):
                await context.read()
            details = (("grpc-status-details-bin", to_status(self._error).SerializeToString()),)
            await context.abort(self._error.code, self._error.message, details)

        return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def refusing(error: ClickstreamError, after: int = 1) -> AsyncIterator[str]:
    """The address of a server that ends every call with this error; see `Refusing`."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Refusing(error, after)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("call", "after", "error"),
    [
        (_call, 1, InvalidField.at("page_size", "is negative")),
        (_call, 1, Overloaded("too much", retry_after_s=60)),
        (_read, 1, InvalidField.at("batch_id", "is too long")),
        (_stream, 1, InvalidField.at("events", "are too many")),
        (_stream_of_faulty, 1, InvalidField.at("meta", "is too large")),
        (_import, 2, InvalidField.at("import_id", "is too long")),
    ],
)
async def test_a_failed_call_leaves_nothing_behind(call: Call, after: int, error: ClickstreamError) -> None:
    """What the frames of a failed call held is free once its error is, without the garbage collector's help."""
    held: list[weakref.ref[Held]] = []

    async def calling(client: ClickstreamClient) -> None:
        here = Held()
        held.append(weakref.ref(here))
        await call(client)

    async def failing(client: ClickstreamClient) -> None:
        with suppress(type(error)):
            await calling(client)
            raise AssertionError("it did not fail")

    async def free() -> bool:
        return held[0]() is None

    async with refusing(error, after) as address, ClickstreamClient(address, stream_resume_s=0) as client:
        gc.disable()
        try:
            await failing(client)
            await eventually(free, "the frame is free")
        finally:
            gc.enable()


def _sync_call(client: SyncClickstreamClient) -> None:
    client.list_batches()


def _sync_read(client: SyncClickstreamClient) -> None:
    next(client.get_batch_pages("b"))


@pytest.mark.parametrize("call", [_sync_call, _sync_read])
async def test_a_failed_call_of_the_synchronous_client_leaves_nothing_behind(call: SyncCall) -> None:
    """A failed call of the synchronous client holds nothing either, though its error comes from another thread."""
    held: list[weakref.ref[Held]] = []

    def calling(client: SyncClickstreamClient) -> None:
        here = Held()
        held.append(weakref.ref(here))
        call(client)

    def failing(client: SyncClickstreamClient) -> None:
        with suppress(InvalidField):
            calling(client)
            raise AssertionError("it did not fail")

    async def free() -> bool:
        return held[0]() is None

    async with refusing(InvalidField.at("page_size", "is negative")) as address:
        with SyncClickstreamClient(address) as client:
            gc.disable()
            try:
                await asyncio.to_thread(failing, client)
                await eventually(free, "the frame is free")
            finally:
                gc.enable()
            await asyncio.to_thread(client.close)
