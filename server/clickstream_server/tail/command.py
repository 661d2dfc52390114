"""The command `clickstream tail`: follows a batch through restarts of the server."""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import sys
from contextlib import aclosing
from dataclasses import dataclass
from select import select

from clickstream.access import Access
from clickstream.client import DEFAULT_TARGET, ClickstreamClient
from clickstream.errors import BatchNotFound, ClickstreamError, NoCollectingBatch, Unavailable
from clickstream.models import SessionBatch, SessionBatchStatus, SessionPage
from clickstream.resume import Patience
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.failures import StartFailure
from clickstream_server.reach import MESSAGE_SIZE_FLAG, advice, message_of, options_of, program
from clickstream_server.tail.lines import EVENTS_COUNTED_MAX, JsonLines, Lines, TextLines
from clickstream_server.waiting import interruptible

_STDOUT = 1
_PIECE_BYTES = 4096
"""What a pipe takes at once if it can be written to at all (POSIX: PIPE_BUF)."""


@dataclass(frozen=True, slots=True)
class TailOptions:
    """What the command line says."""

    access: Access
    batch_id: str
    after: int
    last: int | None
    as_json: bool
    events_limit: int | None
    message_bytes_max: int = MESSAGE_BYTES_MAX


def tail(options: TailOptions) -> int:
    """Show the batch until it is sealed; return the exit code. Raises StartFailure."""
    follower = _Follower(options)
    try:
        asyncio.run(follower.run())
    except ClickstreamError as error:
        raise StartFailure(_said(options.access.target, error)) from error
    except BrokenPipeError:
        return 0
    except OSError as error:
        raise StartFailure(f"cannot write: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; to go on: {follower.line_to_go_on()}") from None
    return 0


class _Follower:
    """Where the tail stands: all up to `after` was written."""

    def __init__(self, options: TailOptions) -> None:
        self._options = options
        self._batch_id = options.batch_id
        self._after = options.after
        self._lines: Lines = JsonLines() if options.as_json else TextLines()
        self._failures = 0

    async def run(self) -> None:
        # The client gives up at once when a connection is lost: taking it up again is done here, where it can be said.
        reach = {**self._options.access.arguments, "message_bytes_max": self._options.message_bytes_max}
        async with ClickstreamClient(**reach, stream_resume_s=0) as client:
            batch = await self._batch(client)
            self._batch_id = batch.batch_id
            if self._options.last is not None:
                self._after = max(0, batch.session_counter - self._options.last)
            if self._after > batch.session_counter:  # of another batch: to wait for it would pass over sessions
                raise StartFailure(
                    f"--after {self._after}: the last number of batch {batch.batch_id} is {batch.session_counter}"
                )
            patience = Patience(math.inf)
            patience.renew()
            while True:
                try:
                    await self._read(client, patience)
                except ClickstreamError as error:
                    if not patience.allows(error):
                        raise
                    failure = error
                else:
                    return
                self._say_away(failure)
                await patience.wait(failure)

    def line_to_go_on(self) -> str:
        options = self._options
        size = options.message_bytes_max
        arguments = shlex.join(
            [
                *("tail", *([self._batch_id] if self._batch_id else [])),
                *("--after", str(self._after)),
                *(["--json"] if options.as_json else []),
                *([] if options.events_limit is None else ["--events-limit", str(options.events_limit)]),
                *options_of(options.access, DEFAULT_TARGET),
                *([] if size == MESSAGE_BYTES_MAX else [MESSAGE_SIZE_FLAG, str(size)]),
            ]
        )
        return f"{program()} {arguments}"

    async def _batch(self, client: ClickstreamClient) -> SessionBatch:
        if self._batch_id:
            found = await client.get_batch(self._batch_id)
            if found is None:
                raise BatchNotFound.by_id(self._batch_id)
            return found
        collecting = (await client.list_batches(statuses=[SessionBatchStatus.COLLECTING])).batches
        if not collecting:
            raise NoCollectingBatch.now()
        return collecting[0]

    async def _read(self, client: ClickstreamClient, patience: Patience) -> None:
        """Write what comes until the batch is sealed."""
        limit = self._options.events_limit
        if limit is None and not self._options.as_json:
            limit = EVENTS_COUNTED_MAX
        pages = client.get_batch_pages(self._batch_id, after_number=self._after, events_limit=limit, follow=True)
        async with aclosing(pages):
            async for page in pages:
                patience.renew()
                self._write(page)
        say(f"batch {self._batch_id} is sealed; its last number is {self._after}")

    def _write(self, page: SessionPage) -> None:
        if self._failures > 1:
            say("the server answers again")
        self._failures = 0
        for found in page.sessions:
            write(self._lines.line(found))
            self._after = found.session_number
        self._after = page.last_number

    def _say_away(self, failure: ClickstreamError) -> None:
        """Say it once an absence, and not where a server only closed an old connection and takes the next one."""
        self._failures += 1
        if self._failures == 2:
            say(f"waiting for the server: {_said(self._options.access.target, failure)}")


def write(data: bytes) -> None:
    """Write all of it to standard output. Ctrl-C ends it where it waits for the reader, and nowhere else."""
    left = memoryview(data)
    while left:
        with interruptible():
            select([], [_STDOUT], [])
        left = left[os.write(_STDOUT, left[:_PIECE_BYTES]) :]


def say(text: str) -> None:
    sys.stderr.write(f"clickstream: {text}\n")


def _said(target: str, error: ClickstreamError) -> str:
    if isinstance(error, Unavailable) and not error.reason:
        return f"nobody answers at {target}{advice(error)}"
    return f"{message_of(error)} ({error.reason or error.code.name}){advice(error)}"
