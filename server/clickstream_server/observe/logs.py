"""Logs as text or as JSON, a line each. Lines that belong to a call carry its id. They hold no payloads."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from pymongo.errors import PyMongoError

from clickstream_server.call_record import call_record

LogFormat = Literal["text", "json"]
_TEXT = "%(asctime)s %(levelname)s %(of_worker)s%(name)s:%(in_call)s %(message)s"


def set_up_logging(level: str, form: LogFormat, *, worker: int = 0) -> None:
    """Send what is logged from now on to the standard error, in this form. `worker`: its number, if this is one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    handler.addFilter(add_call)
    handler.addFilter(partial(_add_worker, worker))
    root = logging.getLogger()
    for other in list(root.handlers):
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # At level debug the driver logs its commands with the documents in them, and those are personal data.
    logging.getLogger("pymongo").setLevel(max(root.level, logging.INFO))
    logging.getLogger("pymongo.client").addFilter(is_news)
    for others in ("grpc._cython.cygrpc", "aiohttp.server"):
        logging.getLogger(others).addFilter(is_no_callers_fault)


def add_call(line: logging.LogRecord) -> bool:
    """A logging filter that lets everything pass, and notes the call that the line belongs to."""
    call = call_record()
    request_id = "" if call is None else call.request_id
    trace_id = "" if call is None or call.trace is None else call.trace.trace_id
    line.__dict__.update(request_id=request_id, trace_id=trace_id, in_call=f" [{request_id}]" if request_id else "")
    return True


def is_news(line: logging.LogRecord) -> bool:
    """A logging filter for the driver's own tasks: that the database is away is told by health and by the calls.

    They would tell it with a traceback and what the server answered, once a second.
    """
    return not (line.exc_info and isinstance(line.exc_info[1], PyMongoError))


def is_no_callers_fault(line: logging.LogRecord) -> bool:
    """A logging filter for gRPC and aiohttp: what is no UTF-8, or no HTTP, is not told; who sends it has an answer.

    It would be told whole, with a traceback, each time that any stranger sends it: a token, too, with a byte too many.
    """
    kind = line.exc_info[0] if line.exc_info else None
    return kind is None or not (issubclass(kind, UnicodeDecodeError) or kind.__module__ == "aiohttp.http_exceptions")


def _add_worker(worker: int, line: logging.LogRecord) -> bool:
    line.__dict__.update(worker=worker, of_worker=f"worker {worker}: " if worker else "")
    return True


class JsonFormatter(logging.Formatter):
    """One object a line. What was given as `extra={"fields": {…}}` stands beside the rest."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("worker", "request_id", "trace_id"):
            if value := getattr(record, name, ""):
                found[name] = value
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str)
