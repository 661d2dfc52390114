"""Asks for a token, before the request is even read; ends streams whose token is no longer valid."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from clickstream.errors import ClickstreamError
from clickstream_server.interceptors.call import Call
from clickstream_server.security.gate import Gate, Refusal
from clickstream_server.security.roles import is_open, roles_for
from clickstream_server.security.tokens import TokenLine

_LET_IN = nullcontext()


class Auth:
    """Stands outside of the limiter, so that strangers take no room from callers.

    Its maker must call `look_again` when tokens may have changed or expired.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._streams: dict[asyncio.Task[Any], _Stream] = {}

    def look_again(self) -> None:
        """End the streams of those who may go on no longer. Unary calls run to their end: it is near."""
        for task, stream in self._streams.items():
            if stream.ended is None:
                method = stream.call.method
                stream.ended = self._gate.ended(stream.caller, roles_for(method), method)
                if stream.ended is not None:
                    task.cancel()

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Let the call in, or raise."""
        if not self._gate.asks or is_open(call.method):
            return _LET_IN
        found = self._gate.check(_authorization(call.record.metadata), roles_for(call.method), call.method)
        if isinstance(found, Refusal):
            call.record.caller = found.caller
            self._gate.report(found, call.context.peer())
            raise found.error
        if found is None:
            return _LET_IN
        call.record.caller = found.name
        return _Stream(self._streams, self._gate, call, found) if call.streams else _LET_IN


class _Stream:
    """Around a stream. `ended`: why it was ended, once it was."""

    __slots__ = ("_gate", "_streams", "_task", "call", "caller", "ended")

    def __init__(self, streams: dict[asyncio.Task[Any], _Stream], gate: Gate, call: Call, caller: TokenLine) -> None:
        self._streams = streams
        self._gate = gate
        self.call = call
        self.caller = caller
        self.ended: ClickstreamError | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each call in a task"
        self._task = task
        self._streams[task] = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._streams[self._task]
        if isinstance(error, asyncio.CancelledError) and self.ended is not None and not self.call.context.cancelled():
            self._gate.report(Refusal(self.ended, self.caller.name, self.call.method), self.call.context.peer())
            raise self.ended from None


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> list[str | bytes]:
    return [value for key, value in metadata if key == "authorization"]
