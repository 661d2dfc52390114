"""Errors of the driver as errors of the domain."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from pymongo.errors import BulkWriteError, OperationFailure

from clickstream import StorageUnavailable
from clickstream_server.storage.mongo.errors import domain_error, storage_call

DUPLICATE, STEPPED_DOWN, INTERRUPTED, TOO_LARGE, TEMPORARILY_UNAVAILABLE = 11000, 189, 11602, 10334, 365
CONCERN = [{"code": 64, "errmsg": "waiting for replication timed out"}]


@pytest.mark.parametrize("code", [43, 175, 237, 279, 11601, INTERRUPTED, STEPPED_DOWN])
def test_a_read_that_a_member_drops_may_be_made_again(code: int) -> None:
    """A cursor or an operation that a member gives up, as when it steps down or rolls back, is no fault of ours."""
    assert isinstance(domain_error(OperationFailure("operation was interrupted", code)), StorageUnavailable)


@pytest.mark.parametrize("code", [24, TEMPORARILY_UNAVAILABLE, 433, 449])
def test_what_is_too_much_for_a_member_may_be_sent_again(code: int) -> None:
    """What MongoDB gives up since it has too much to do is no fault of ours."""
    assert isinstance(domain_error(OperationFailure("too much at once", code)), StorageUnavailable)


@pytest.mark.parametrize(
    ("codes", "concern_errors", "unavailable"),
    [
        ([STEPPED_DOWN], [], True),
        ([STEPPED_DOWN, INTERRUPTED], [], True),
        ([DUPLICATE, STEPPED_DOWN], [], True),
        ([DUPLICATE, TEMPORARILY_UNAVAILABLE], [], True),
        ([], CONCERN, True),
        ([DUPLICATE], CONCERN, True),
        ([DUPLICATE], [], False),
        ([TOO_LARGE], [], False),
        ([TOO_LARGE, STEPPED_DOWN], [], False),
        ([TOO_LARGE], CONCERN, False),
    ],
)
def test_a_bulk_write_fails_for_now_or_for_good(
    codes: list[int], concern_errors: list[dict[str, object]], unavailable: bool
) -> None:
    """A bulk write is unavailable if all that went wrong may go well later, but for known documents."""
    errors = [{"index": place, "code": code, "errmsg": ""} for place, code in enumerate(codes)]
    found = domain_error(BulkWriteError({"writeErrors": errors, "writeConcernErrors": concern_errors}))

    assert (StorageUnavailable if unavailable else type(None)) is type(found)


async def test_a_cancel_that_the_driver_swallows_counts() -> None:
    """A task that was cancelled while it waited for the database ends, though the driver returned an answer."""
    waits = asyncio.Event()

    async def reads() -> None:
        async with storage_call(60):
            with suppress(asyncio.CancelledError):  # as `asyncio.wait_for` does, if the answer comes at that moment
                waits.set()
                await asyncio.Event().wait()

    reading = asyncio.create_task(reads())
    await waits.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
