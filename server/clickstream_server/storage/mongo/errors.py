"""Driver errors -> domain errors, by class and code, never by text. What is not listed here is a fault of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pymongo
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from clickstream.errors import ClickstreamError, ShuttingDown, StorageUnavailable
from clickstream_server.call_record import Stage, call_record, enter
from clickstream_server.deadlines import budget_s
from clickstream_server.storage.mongo.driver import end_if_cancelled

DUPLICATE_KEY = 11000
_RETRY_AFTER_S = 1.0
_UNAVAILABLE_CODES = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        24,  # LockTimeout
        43,  # CursorNotFound
        50,  # MaxTimeMSExpired
        64,  # WriteConcernTimeout
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        175,  # QueryPlanKilled
        189,  # PrimarySteppedDown
        202,  # NetworkInterfaceExceededTimeLimit
        215,  # DatabaseDropPending
        237,  # CursorKilled
        239,  # SnapshotTooOld
        246,  # SnapshotUnavailable
        251,  # NoSuchTransaction
        262,  # ExceededTimeLimit
        279,  # ClientDisconnect
        365,  # TemporarilyUnavailable: rolled back, again and again, for want of room in the cache
        433,  # AdmissionQueueOverflow
        449,  # RateLimitExceeded
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11601,  # Interrupted
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
        14031,  # OutOfDiskSpace
    }
)
REFUSED_CODES = frozenset(
    {
        13,  # Unauthorized
        18,  # AuthenticationFailed
        391,  # ReauthenticationRequired
        8000,  # AtlasError: a wrong password, as MongoDB's own hosting says it
    }
)
"""MongoDB does not know our user, or does not let it do this. That can be mended there, without a restart here."""
UNKNOWN_CONCERN_CODES = frozenset({79, 100})  # UnknownReplWriteConcern, UnsatisfiableWriteConcern


_MOMENTARY = (
    ConnectionFailure,
    AutoReconnect,
    ExecutionTimeout,
    WaitQueueTimeoutError,
    ConfigurationError,  # no sessions, on a connection that is about to be made anew: see `renewal`
)


class UnexpectedDriverError(Exception):
    """A fault of ours in the use of the database. `log_text` holds names and codes only."""

    def __init__(self, error: PyMongoError) -> None:
        self.code: int | None = getattr(error, "code", None)
        self.log_text = named(error)
        super().__init__(self.log_text)


def named(error: BaseException) -> str:
    """What the error is, by its kind, and MongoDB's name and code if it has them; never its text."""
    code = getattr(error, "code", None)
    if not isinstance(error, PyMongoError) or code is None:
        return type(error).__name__
    details = getattr(error, "details", None)
    name = details.get("codeName") if isinstance(details, Mapping) else None
    return f"{name or type(error).__name__}:{code}"


def cause_of(error: BaseException) -> str:
    """What the driver's error was that this one stands for; "" if there was none."""
    if isinstance(error, UnexpectedDriverError):
        return error.log_text
    return "" if error.__cause__ is None else named(error.__cause__)


def is_refused(error: BaseException | None) -> bool:
    """Whether MongoDB refused our user."""
    return isinstance(error, OperationFailure) and error.code in REFUSED_CODES


def storage_unavailable() -> StorageUnavailable:
    return StorageUnavailable("the database does not answer at the moment", retry_after_s=_RETRY_AFTER_S)


def domain_error(error: PyMongoError) -> ClickstreamError | None:
    """The domain's error for a driver's, or None if it is a fault of ours."""
    if isinstance(error, _MOMENTARY) or error.timeout:
        return storage_unavailable()
    if is_transient(error) or (isinstance(error, WriteConcernError) and error.code not in UNKNOWN_CONCERN_CODES):
        return storage_unavailable()
    if isinstance(error, BulkWriteError) and _may_work_later(error.details):
        return storage_unavailable()
    if isinstance(error, OperationFailure) and error.code in _UNAVAILABLE_CODES | REFUSED_CODES:
        return storage_unavailable()
    if isinstance(error, InvalidOperation):  # the client was closed under a call that still ran
        return ShuttingDown("the server is stopping", retry_after_s=_RETRY_AFTER_S)
    return None


def translated(error: PyMongoError) -> ClickstreamError | UnexpectedDriverError:
    """What to raise, or to answer a caller with, for a driver's error."""
    return domain_error(error) or UnexpectedDriverError(error)


def _may_work_later(details: Mapping[str, Any]) -> bool:
    """Whether a bulk write failed for want of a durable majority, or only with what a later one may not meet.

    Duplicate keys say nothing: an insert that goes past known documents has them, too.
    """
    codes = {found["code"] for found in details.get("writeErrors", ())} - {DUPLICATE_KEY}
    return codes <= _UNAVAILABLE_CODES and bool(codes or details.get("writeConcernErrors"))


def is_transient(error: PyMongoError) -> bool:
    """Whether the driver or the server says that the same thing may work at once."""
    labels = ("TransientTransactionError", "RetryableWriteError", "UnknownTransactionCommitResult")
    return any(error.has_error_label(label) for label in labels)


@asynccontextmanager
async def storage_call(timeout_s: float) -> AsyncIterator[None]:
    """As `driver_call`, and on time: a driver that waits for a server looks at its clock every half second only.

    The call's time goes to the database inside, and afterwards to its answer.
    """
    enter(Stage.DATABASE)
    try:
        async with asyncio.timeout(budget_s(timeout_s)):
            with driver_call(timeout_s):
                yield
        end_if_cancelled()
    except TimeoutError as error:
        note_cause(error)
        raise storage_unavailable() from error
    finally:
        enter(Stage.ENCODE)


@contextmanager
def driver_call(timeout_s: float) -> Iterator[None]:
    """Calls to the database inside keep within `timeout_s` and the caller's deadline, and raise domain errors."""
    try:
        with pymongo.timeout(budget_s(timeout_s)):
            yield
    except PyMongoError as error:
        note_cause(error)
        told = translated(error)
        # From None: a driver's text, and a traceback with it, may hold documents, and those are personal data.
        raise told from None if isinstance(told, UnexpectedDriverError) else error


def note_cause(error: Exception) -> None:
    """Have the line of the call that runs now, if it is one, tell what this was."""
    record = call_record()
    if record is not None:
        record.cause = named(error)


def note_cause_of(error: ClickstreamError) -> None:
    """As `note_cause`, of what failed in a task that is no call's, and so had nobody to tell."""
    record = call_record()
    if record is not None:
        record.cause = cause_of(error)
