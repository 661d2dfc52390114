"""No test leaves a server behind, not even one that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from harness import ServerProcess


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    yield
    for server in list(ServerProcess.alive):
        await server.kill()
