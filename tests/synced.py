"""The synchronous client behind the asynchronous interface, so that the contract suite can run over it, too."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterator
from functools import partial
from typing import Any

from clickstream import ClickstreamDao, SyncClickstreamClient, TransferDao

_END: Any = object()


async def _in_thread(items: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    """The generator's items, each taken in a thread, since taking one blocks."""
    try:
        while (item := await asyncio.to_thread(next, items, _END)) is not _END:
            yield item
    finally:
        await asyncio.to_thread(items.close)


def _blocking(items: AsyncIterable[Any]) -> Iterator[Any]:
    """The asynchronous items, for a thread that can wait for them while the loop goes on."""
    loop = asyncio.get_running_loop()
    found = aiter(items)

    async def following() -> Any:
        return await anext(found, _END)

    def taken() -> Iterator[Any]:
        while (item := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not _END:
            yield item

    return taken()


class SyncedDao(ClickstreamDao, TransferDao):
    """A ClickstreamDao and TransferDao whose every method is that of a synchronous client."""

    def __init__(self, client: SyncClickstreamClient) -> None:
        for name in _METHODS:
            setattr(self, name, _method(name, getattr(client, name)))


_METHODS = ClickstreamDao.__abstractmethods__ | TransferDao.__abstractmethods__ | {"get_batch_sessions"}
SyncedDao.__abstractmethods__ = frozenset()


def _method(name: str, blocking: Any) -> Any:
    if inspect.iscoroutinefunction(getattr(ClickstreamDao, name, None)):
        return partial(asyncio.to_thread, blocking)

    def streaming(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        given = [_blocking(arg) if hasattr(arg, "__aiter__") else arg for arg in args]
        return _in_thread(blocking(*given, **kwargs))

    return streaming
