"""Work on a stream, several pieces at once, results in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from types import AsyncGeneratorType
from typing import Any, TypeVar

from clickstream_server.storage.mongo.driver import end_if_cancelled

A = TypeVar("A")
B = TypeVar("B")


async def in_order(
    source: AsyncIterable[A], work: Callable[[A], Awaitable[B]], *, in_flight: int
) -> AsyncGenerator[B, None]:
    """Yield `work(piece)` for each piece of the source, in order, with `in_flight` of them under way at most.

    Until the next result is asked for, the one that was yielded last counts as well. The source is not read on while
    that many are under way. What is wrong with the source is raised after the results of what came before it; the first
    error of `work` ends everything. Nothing runs on once the generator is closed, and nothing of it waits for the
    garbage collector, which is told to come seldom: results may be large.
    """
    running: asyncio.Queue[asyncio.Task[B] | None] = asyncio.Queue()
    free = asyncio.Semaphore(in_flight)
    tasks: set[asyncio.Task[Any]] = set()

    async def run(piece: A) -> B:
        return await work(piece)

    async def feed() -> None:
        error: BaseException | None = None
        try:
            await free.acquire()
            async for piece in source:
                end_if_cancelled()
                task = asyncio.create_task(run(piece))
                tasks.add(task)
                running.put_nowait(task)
                await free.acquire()
        except (Exception, asyncio.CancelledError) as found:  # the second may be of something that the source awaits
            error = found
        try:
            end_if_cancelled()
            running.put_nowait(None)
            if error is not None:
                raise error
        finally:
            error = None  # its traceback holds this frame

    feeding = asyncio.create_task(feed())
    tasks.add(feeding)
    try:
        while (task := await running.get()) is not None:
            yield await task
            tasks.discard(task)
            free.release()
        await feeding
    finally:
        for task_left in tasks:
            task_left.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:  # also if whoever reads goes away meanwhile
            tasks.clear()  # one of them is `feed`, which holds them
            if isinstance(source, AsyncGeneratorType) and not source.ag_running:  # if it runs, it was cancelled
                await source.aclose()
