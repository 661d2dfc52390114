"""Traces for OpenTelemetry: a span for each call, for the commands that it sends to MongoDB, and for group commits.

Where they go, and which are kept, is told by the variables of OpenTelemetry (`OTEL_…`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from time import time_ns
from typing import Any

import grpc
from opentelemetry import propagate
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context

from clickstream_server.call_record import CallRecord
from clickstream_server.interceptors.call import Call
from clickstream_server.storage.observer import Command, Gathered, StorageObserver

_NOT_TRACED = ("/grpc.health.", "/grpc.reflection.", "/grpc.channelz.")
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error, as the semantic conventions have it."""
_NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}
_GROUPS: dict[Gathered, str] = {"register": "group commit", "push": "group push", "get": "group get"}
"""What their spans are called."""
COMMANDS_MAX = 100
"""So many commands of one call become spans at most: a stream may send them for an hour."""


class Trace:
    """The span that what happens now belongs to, and how many of its commands may still become spans."""

    __slots__ = ("commands_left", "span", "trace_id")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        self.commands_left = COMMANDS_MAX


_current: ContextVar[Trace | None] = ContextVar("clickstream_trace", default=None)


class Tracing(StorageObserver):
    """Makes the spans of one server process."""

    def __init__(self, exporter: SpanExporter) -> None:
        ours = {SERVICE_NAME: "clickstream", SERVICE_VERSION: version("clickstream")}
        given = OTELResourceDetector().detect().attributes  # what the variables say counts for more
        # Its own way to stop at the program's end would wait there, for as long as a collector that hangs.
        self._provider = TracerProvider(resource=Resource.create({**ours, **given}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("clickstream_server", version("clickstream"))

    def close(self) -> None:
        """Send what is left. Blocks until that is done, or has taken as long as the exporter may."""
        self._provider.shutdown()

    # --- calls ------------------------------------------------------------------------------------------------------

    def began(self, call: Call, record: CallRecord) -> None:
        """A call of the service begins: as a part of its caller's trace, if it tells of one."""
        if call.method.startswith(_NOT_TRACED):
            return
        service, _, method = call.method.removeprefix("/").partition("/")
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=propagate.extract(_carrier(call.context.invocation_metadata() or ())),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "clickstream.request_id": record.request_id,
            },
        )
        record.trace = Trace(span)
        _current.set(record.trace)

    def ended(self, code: str, record: CallRecord) -> None:
        """It has ended with this status."""
        if record.trace is None:
            return
        span = record.trace.span
        if span.is_recording():
            span.set_attribute("rpc.grpc.status_code", _NUMBERS[code])
            if record.reason:
                span.set_attribute("clickstream.reason", record.reason)
            if record.caller:
                span.set_attribute("clickstream.caller", record.caller)
            if code in _FAULTS:
                span.set_status(Status(StatusCode.ERROR, record.reason or code))
        span.end()

    # --- the storage ------------------------------------------------------------------------------------------------

    @contextmanager
    def group(self, work: Gathered, calls: Sequence[CallRecord | None]) -> Iterator[None]:
        """A part of the first call's trace, linked to all of them, and they to it.

        What one call alone has for the asking is a part of that call: only a commit is always a group.
        """
        spans = [call.trace.span for call in calls if call is not None and call.trace is not None]
        spans = [span for span in dict.fromkeys(spans) if span.is_recording()]
        if not spans:
            yield
            return
        if work != "register" and len(calls) == 1 and calls[0] is not None:
            token = _current.set(calls[0].trace)
            try:
                yield
            finally:
                _current.reset(token)
            return
        group = self._tracer.start_span(
            _GROUPS[work],
            context=set_span_in_context(spans[0]),
            attributes={"clickstream.group_size": len(calls)},
            links=[Link(span.get_span_context()) for span in spans],
        )
        for span in spans[1:]:
            span.add_link(group.get_span_context())
        token = _current.set(Trace(group))
        try:
            yield
        except BaseException as error:
            group.set_status(Status(StatusCode.ERROR, type(error).__name__))  # not its text: that may hold a payload
            raise
        finally:
            _current.reset(token)
            group.end()

    def command(self, command: Command) -> None:
        """A span for what MongoDB has answered just now. Never with the command's text: that holds payloads."""
        trace = _current.get()
        if trace is None or trace.commands_left <= 0 or not trace.span.is_recording():
            return
        trace.commands_left -= 1
        ended = time_ns()
        span = self._tracer.start_span(
            f"{command.name} {command.collection or command.database}",
            context=set_span_in_context(trace.span),
            kind=SpanKind.CLIENT,
            start_time=ended - int(command.duration_s * 1_000_000_000),
            attributes={
                "db.system.name": "mongodb",
                "db.namespace": command.database,
                "db.collection.name": command.collection,
                "db.operation.name": command.name,
                "server.address": command.server,
            },
        )
        if command.error:
            span.set_attribute("db.response.status_code", command.error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)


def _carrier(metadata: Any) -> Mapping[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}


def otlp_exporter(environment: Mapping[str, str]) -> SpanExporter:
    """What sends spans as OTLP, over gRPC unless the environment asks for HTTP. Raises ValueError for other forms."""
    chosen = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if chosen in {None, "", "grpc"}:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    if chosen == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        return OverHttp()
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {chosen} is not supported; use grpc or http/protobuf")
