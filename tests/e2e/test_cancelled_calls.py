"""Calls whose task is cancelled."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from clickstream import ClickstreamClient, EventBatch, ImportChunk, ImportConfig
from harness import eventually

Call = Callable[[ClickstreamClient], Awaitable[Any]]


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
