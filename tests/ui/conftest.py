"""The page of a real server, and a real browser to look at it with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from browser import Browser, started_browser
from sites import Site, opened_site


@pytest.fixture
async def site(mongodb_uri: str, database: str) -> AsyncIterator[Site]:
    async with opened_site(mongodb_uri, database) as found:
        yield found


@pytest.fixture(scope="session")
async def one_browser() -> AsyncIterator[Browser]:
    async with started_browser() as found:
        yield found


@pytest.fixture
async def browser(one_browser: Browser) -> AsyncIterator[Browser]:
    """The browser as it was started: a laptop's window, no page."""
    await one_browser.command(
        "Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False
    )
    yield one_browser
    await one_browser.open("about:blank")
    await one_browser.complaints()
