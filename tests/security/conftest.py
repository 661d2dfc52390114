"""Authorities, and servers that know who calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guarded import Guarded

from certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def guarded(mongodb_uri: str, database: str, tmp_path: Path) -> AsyncIterator[Guarded]:
    """A server that asks for tokens."""
    async with Guarded.started(mongodb_uri, database, tmp_path / "tokens") as found:
        yield found
