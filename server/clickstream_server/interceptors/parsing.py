"""Parses requests. What is too large, or what no parser takes, becomes an error with its reason and place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError, Message

from clickstream.errors import ClickstreamError, MessageTooLarge
from clickstream_server.call_record import Stage, enter
from clickstream_server.interceptors.call import HEALTH, HEALTH_BYTES_MAX, Handler
from clickstream_server.interceptors.salvage import salvaged
from clickstream_server.limits import Limits

Admit = Callable[[int], ClickstreamError | None]
"""Takes the size of a request; returns the error to answer with if it is not to be parsed."""


class Parsing:
    """Gives handlers deserializers of ours.

    gRPC would end a call as INTERNAL if its deserializer raised. So these return the error in the request's place, and
    it is raised inside of the call: here for streams of requests, by the limiter for the request of other calls.
    """

    def __init__(self, limits: Limits, admit: Admit) -> None:
        self._limits = limits
        self._health_limits = replace(limits, message_bytes_max=HEALTH_BYTES_MAX)
        self._admit = admit

    def prepared(self, method: str, handler: Handler) -> Handler:
        """The handler, with its requests parsed by us, if they are protobuf messages."""
        message = getattr(handler.request_deserializer, "__self__", None)
        if not (isinstance(message, type) and issubclass(message, Message)):
            return handler
        limits = self._health_limits if method.startswith(HEALTH) else self._limits
        handler = handler._replace(request_deserializer=_parser(message, limits, self._admit))
        if not handler.request_streaming:
            return handler
        field = "stream_stream" if handler.response_streaming else "stream_unary"
        behaviour = getattr(handler, field)
        return handler._replace(**{field: lambda requests, context: behaviour(_parsed(requests), context)})


def _parser(message: type[Message], limits: Limits, admit: Admit) -> Callable[[bytes], Any]:
    """Parse a request, or return the error to answer with."""
    bytes_max = limits.message_bytes_max

    def parse(data: bytes) -> Any:
        enter(Stage.VALIDATE)
        if len(data) > bytes_max:
            return MessageTooLarge(f"a message must have {bytes_max} bytes at most, not {len(data)}")
        if (refusal := admit(len(data))) is not None:
            return refusal
        try:
            return message.FromString(data)
        except DecodeError:
            return salvaged(message, data, limits.events_per_call_max)

    return parse


async def _parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream; raises the error that stands in the place of one."""
    async for request in requests:
        if isinstance(request, ClickstreamError):
            raise request
        yield request
