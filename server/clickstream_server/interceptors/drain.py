"""The caller's deadline, and an orderly end: new calls are refused, streams end so that clients resume elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clickstream.errors import ShuttingDown
from clickstream_server.deadlines import deadline
from clickstream_server.interceptors.wrapping import AroundInterceptor, Context

_RETRY_AFTER_S = 1.0


class DrainInterceptor(AroundInterceptor):
    """Knows the streams that run, and refuses calls once it drains."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Task[Any]] = set()
        self._draining = False

    def drain(self) -> None:
        """Refuse new calls and end the streams; calls that answer once run on."""
        self._draining = True
        for stream in self._streams:
            stream.cancel()

    @asynccontextmanager
    async def around(self, request: Any, context: Context, *, streams: bool) -> AsyncIterator[None]:  # noqa: ARG002
        if self._draining:
            raise ShuttingDown("the server is stopping; call another one or try again", retry_after_s=_RETRY_AFTER_S)
        task = asyncio.current_task()
        if streams and task is not None:
            self._streams.add(task)
        try:
            with deadline(context.time_remaining()):
                yield
        finally:
            if task is not None:
                self._streams.discard(task)
