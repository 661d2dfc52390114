"""One transaction, tried again while that is safe.

The drivers' own helper may go on trying for two minutes, whatever the timeout.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

from pymongo.errors import ExecutionTimeout, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from clickstream_server.storage.mongo.driver import (
    APP_NAME,
    CODEC,
    end_if_cancelled,
    in_one_thread,
    maybe_await,
    unwrapped,
)
from clickstream_server.storage.mongo.errors import DUPLICATE_KEY
from clickstream_server.storage.observer import NOBODY, StorageObserver

T = TypeVar("T")

_log = logging.getLogger(__name__)
_BACKOFF_S_MAX = 0.05
_DUPLICATE_KEY_TRIES_MAX = 20
_ABANDONED_S = 2.0


async def in_transaction(
    client: Any, body: Callable[[Any], Awaitable[T]], *, timeout_s: float, observer: StorageObserver = NOBODY
) -> T:
    """Run `body(session)` in a snapshot transaction and commit it durably; return what it returned.

    Conflicts with other writers start it again, after a short random wait, until `timeout_s` seconds are over. A
    duplicate key means that another writer came first: the next try sees what it wrote. An error of the driver that is
    raised from here may mean that the commit's outcome is unknown.
    """
    give_up_at = monotonic() + timeout_s
    async with past_abandoned(client):
        for attempt in range(10**6):
            try:
                return await in_one_thread(client, lambda: _attempt(unwrapped(client), body, give_up_at))
            except PyMongoError as error:
                duplicate_key = getattr(error, "code", None) == DUPLICATE_KEY or _has_duplicate_key(error)
                again = error.has_error_label("TransientTransactionError") or (
                    duplicate_key and attempt < _DUPLICATE_KEY_TRIES_MAX
                )
                if not again or monotonic() > give_up_at:
                    raise
            observer.transaction_again()
            await asyncio.sleep(random.uniform(0, min(_BACKOFF_S_MAX, 0.002 * 2 ** min(attempt, 8))))
    raise AssertionError("unreachable")


async def _attempt(client: Any, body: Callable[[Any], Awaitable[T]], give_up_at: float) -> T:
    session = client.start_session()
    try:
        await maybe_await(
            session.start_transaction(ReadConcern("snapshot"), client.write_concern, ReadPreference.PRIMARY)
        )
        result = await body(session)
        while True:
            try:
                await maybe_await(session.commit_transaction())
                return result
            except PyMongoError as error:
                if not error.has_error_label("UnknownTransactionCommitResult") or monotonic() > give_up_at:
                    raise
    finally:
        with suppress(PyMongoError):  # the server ends what is not committed by itself, too
            await maybe_await(session.end_session())


@asynccontextmanager
async def past_abandoned(client: Any) -> AsyncIterator[None]:
    """What is written inside does not wait for long for a transaction that nobody will end."""

    async def keep_ending() -> None:
        while True:
            await asyncio.sleep(_ABANDONED_S)
            await _end_abandoned(client)
            end_if_cancelled()

    ending = asyncio.create_task(keep_ending())
    try:
        yield
    finally:
        ending.cancel()


async def _end_abandoned(client: Any) -> None:
    """End transactions of this program that nobody goes on with: a killed server's would hold the batch for a minute.

    (That is `transactionLifetimeLimitSeconds`.) One whose server is only slow is started again by that server. Whoever
    writes learns for himself that the database is slow or away.
    """
    abandoned = {
        "type": "idleSession",
        "appName": APP_NAME,
        "transaction.timeInactiveMicros": {"$gt": _ABANDONED_S * 1_000_000},
    }
    try:
        # Which of the server's own operations run is no data that a majority could agree on: the only concern it takes.
        admin = client.get_database("admin", codec_options=CODEC, read_concern=ReadConcern("local"))
        cursor = await maybe_await(admin.aggregate([{"$currentOp": {"idleSessions": True}}, {"$match": abandoned}]))
        sessions = [{"id": found["lsid"]["id"]} async for found in cursor]
        if sessions:
            await admin.command("killSessions", sessions, codec_options=CODEC)
    except ExecutionTimeout:
        pass
    except OperationFailure as error:  # it may not be allowed; then they end by themselves
        _log.warning(
            "cannot end what a killed server may have left open, which holds its batch for a minute: %s %s",
            type(error).__name__,
            error.code,
        )
    except PyMongoError:
        pass


def _has_duplicate_key(error: PyMongoError) -> bool:
    details = getattr(error, "details", None) or {}
    return any(found.get("code") == DUPLICATE_KEY for found in details.get("writeErrors", ()))
