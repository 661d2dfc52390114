"""The caller's trace, taken along to the service: only in a process that uses OpenTelemetry already."""

from __future__ import annotations

import sys
from typing import Any


def trace_options() -> dict[str, Any]:
    """What to give a call so that it continues the trace of the span that is current now; nothing if there is none.

    Nothing is imported for it: a process that has spans has imported OpenTelemetry's API. Another thread may be about
    to, and then the module is there before its functions are.
    """
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current_span is None or not current_span().get_span_context().is_valid:
        return {}
    from opentelemetry import propagate

    found: dict[str, str] = {}
    propagate.inject(found)
    return {"metadata": tuple((key.lower(), value) for key, value in found.items())}
