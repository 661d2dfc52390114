"""Reading documents by raw batches: for less time, and with their sizes known, so that memory can be bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from struct import Struct
from typing import Any

from bson import decode_all

from clickstream_server.storage.mongo.driver import CODEC, maybe_await, unwrapped

_LENGTH = Struct("<i")


class TooManyBytes(Exception):
    """What is asked for is more than may be held at once: to be asked for in parts."""


def document_sizes(batch: bytes) -> Iterator[int]:
    """The sizes of the documents of a batch as `find_raw_batches` gives it: BSON end to end, each led by its size.

    A cursor that gives documents costs a turn through the driver for each (Motor: as much as decoding it), and does not
    tell their size.
    """
    at = 0
    while at < len(batch):
        (size,) = _LENGTH.unpack_from(batch, at)
        yield size
        at += size


async def first_batch(cursor: Any, most: int) -> tuple[list[dict[str, Any]], bool]:
    """The documents of the first answer to a query of raw batches, up to `most` or 16 MiB, and whether they are all."""
    batches = await maybe_await(cursor.batch_size(most + 1).to_list(1))
    complete = not cursor.alive
    if not complete:
        await maybe_await(cursor.close())
    return decode_all(b"".join(batches), CODEC), complete


async def batches_of(cursor: Any) -> AsyncGenerator[Any, None]:
    """The cursor's batches. Closed before its end (see `aclosing`), it closes the cursor, and waits for nothing.

    An answer that is under way is awaited even if nobody wants it any more: only the first answer has the cursor's id.
    Given up, it would leave behind a cursor that MongoDB keeps for as long as anybody uses the session.
    """
    try:
        while True:
            answer = asyncio.ensure_future(anext(cursor, None))
            answer.add_done_callback(_look_at)
            batch = await asyncio.shield(answer)
            if batch is None:
                return
            yield batch
    finally:
        answer.add_done_callback(lambda _: _close_soon(cursor))
        del answer  # an error in it holds this frame


def _close_soon(cursor: Any) -> None:
    """Have the driver close the cursor within a second, as it does with those that are dropped.

    Its `close()` tells MongoDB in the cursor's session, where a snapshot makes that an error, and if it is cancelled
    meanwhile, nobody tells MongoDB (PyMongo 4.20).
    """
    unwrapped(cursor).__del__()


def _look_at(ended: asyncio.Future[Any]) -> None:
    """Asyncio complains of an error that nobody looked at, as when nobody waits any more."""
    if not ended.cancelled():
        ended.exception()
