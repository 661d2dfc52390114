"""What tests recorded of faults is shown at the end."""

from __future__ import annotations

import pytest
from faults import report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if outcomes := [value for found in reports for name, value in found.user_properties if name == "fault"]:
        report.show(outcomes)
