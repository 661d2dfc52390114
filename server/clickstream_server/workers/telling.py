"""A worker tells its supervisor that it lives, and what it has counted, by the pipe on which it said that it serves."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

_EVERY_S = 1.0
_LAST_S = 1.0
"""How long the last line may take on its way."""
_LOOK_AGAIN_S = 0.02
_log = logging.getLogger(__name__)


class Teller:
    """Writes what `line` returns to the pipe, once a second. It never waits for who reads: that one may hang."""

    def __init__(self, pipe: int, line: Callable[[], bytes]) -> None:
        self._pipe = pipe
        self._line = line
        self._transport: asyncio.WriteTransport | None = None
        self._task = asyncio.create_task(self._keep_telling())

    async def stop(self) -> None:
        """Tell once more, and stop."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._transport is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self._told()
                if not self._transport.is_closing():  # it is, if who reads was killed; uvloop's raises then
                    self._transport.write(self._said())
                await self._told()
        self._transport.abort()

    async def _keep_telling(self) -> None:
        file = os.fdopen(os.dup(self._pipe), "wb", 0)
        self._transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, file)
        while not self._transport.is_closing():
            if not self._transport.get_write_buffer_size():  # a line is old by the time that it would be read
                self._transport.write(self._said())
            await asyncio.sleep(_EVERY_S)

    def _said(self) -> bytes:
        """A line in any case: whoever says nothing is taken to hang."""
        try:
            return self._line()
        except Exception:
            _log.exception("what was counted cannot be told")
            return b"\n"

    async def _told(self) -> None:
        """Wait until nothing is left to be written."""
        assert self._transport is not None
        while self._transport.get_write_buffer_size():  # noqa: ASYNC110  # nothing tells when it has become empty
            await asyncio.sleep(_LOOK_AGAIN_S)
