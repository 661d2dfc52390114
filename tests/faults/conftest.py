"""No test leaves a server behind, not even one that failed. What tests recorded of faults is shown at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from faults import report

from harness import ServerProcess


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    yield
    for server in list(ServerProcess.alive):
        await server.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if outcomes := [value for found in reports for name, value in found.user_properties if name == "fault"]:
        report.show(outcomes)
