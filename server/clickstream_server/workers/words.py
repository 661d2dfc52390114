"""What the supervisor and its workers say to each other, and how long they wait."""

from __future__ import annotations

SERVING = "serving"
FAILED = "failed"
HANGS_AFTER_S = 10.0
"""A worker that has not stopped so long after its time to drain was over hangs."""
