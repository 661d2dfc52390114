"""A call's id and where its time goes, carried beside the call so that every part of the server can add to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from enum import IntEnum
from random import Random
from time import perf_counter
from typing import Any

REQUEST_ID = "x-request-id"
SERVER_TIMING = "server-timing"
Metadata = Sequence[tuple[str, str | bytes]]
_SANE = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")
"""An id of the caller's own. It goes into the log, so nothing that could pass for another line of it."""
_TIMING = "queue;dur=%.2f, validate;dur=%.2f, database;dur=%.2f, encode;dur=%.2f, total;dur=%.2f"
_random = Random()  # an id must be a new one, not a secret


class Stage(IntEnum):
    """What a call does at a time. The contract's names of `server-timing`, in the order in which a call meets them."""

    QUEUE = 0
    VALIDATE = 1
    DATABASE = 2
    ENCODE = 3


class CallRecord:
    """One call: it begins when this is made, and waits at first. It is in one stage at a time."""

    __slots__ = (
        *("_since", "_spent_s", "_stage"),
        *("began", "caller", "cause", "gone", "metadata", "reason", "request_id", "trace"),
    )

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        """What its caller sent beside the request."""
        self.request_id = _request_id(metadata)
        self.caller = ""
        """The name of the caller's token, once it is known."""
        self.gone = False
        """Whether its client went away before it had the answer."""
        self.reason = ""
        """Why it was refused, as its error says it."""
        self.cause = ""
        """What the database, or the driver, said last when something failed: a name and a code."""
        self.trace: Any = None
        """What its trace is known by, where there is one: see `observe.tracing`."""
        self._spent_s = [0.0, 0.0, 0.0, 0.0]  # one for each stage
        self._stage = Stage.QUEUE
        self.began = self._since = perf_counter()

    def enter(self, stage: Stage) -> None:
        """From now on its time goes to this stage."""
        now = perf_counter()
        self._spent_s[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def spent_s(self) -> dict[str, float]:
        """The time so far, in seconds, by stage."""
        self.enter(self._stage)
        return {f"{stage.name.lower()}_s": round(self._spent_s[stage], 6) for stage in Stage}

    def server_timing(self) -> str:
        """The time so far, in milliseconds, in the form of the W3C's Server-Timing header."""
        self.enter(self._stage)
        queue, validate, database, encode = self._spent_s
        total = queue + validate + database + encode
        return _TIMING % (queue * 1000, validate * 1000, database * 1000, encode * 1000, total * 1000)


_record: ContextVar[CallRecord | None] = ContextVar("clickstream_call_record", default=None)


def begin_call(metadata: Metadata) -> None:
    """The task that runs now is a call from here on, and so is what it starts."""
    _record.set(CallRecord(metadata))


def call_record() -> CallRecord | None:
    """The record of the call that runs now; None where what runs is no call."""
    return _record.get()


def this_call() -> CallRecord:
    """The record of the call that runs now, where it is certain that one does."""
    record = _record.get()
    assert record is not None, "a call begins with its record"
    return record


def enter(stage: Stage) -> None:
    """The call that runs now, if it is one, goes on to this stage."""
    record = _record.get()
    if record is not None:
        record.enter(stage)


def _request_id(metadata: Metadata) -> str:
    """The caller's own id, if it is one that a log can take, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and _SANE.fullmatch(value):
            return value
    return f"{_random.getrandbits(64):016x}"
