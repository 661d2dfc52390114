"""A real headless browser, for tests of the page."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from harness import eventually

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class Browser:
    """Chromium over its driver. Every call runs in a thread: servers of this process go on meanwhile."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    async def open(self, url: str) -> None:
        """Load the page anew, also if only the part behind the # differs."""
        await self._run(lambda: (self.driver.get("about:blank"), self.driver.get(url)))

    async def text(self, css: str) -> str:
        """What a person sees of the first such element that is not hidden; "" if there is none."""
        return next(iter(await self.texts(css)), "")

    async def texts(self, css: str) -> list[str]:
        """What a person sees of each such element that is not hidden, with white space made even."""
        seen = "[...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
        found = await self.script(f"return {seen}.map(e => e.innerText)", css)
        return [" ".join(text.split()) for text in found]

    async def shows(self, css: str, text: str) -> None:
        """Wait until an element shows this text."""

        async def there() -> bool:
            return any(text in found for found in await self.texts(css))

        try:
            await eventually(there, f"{css} shows {text!r}")
        except AssertionError as error:
            error.add_note(f"the page says: {await self.text('body')}")
            raise

    async def click(self, css: str) -> None:
        await self._run(lambda: self.driver.find_element(By.CSS_SELECTOR, css).click())

    async def press(self, keys: str) -> None:
        await self._run(lambda: webdriver.ActionChains(self.driver).send_keys(keys).perform())

    async def enter(self, text: str) -> None:
        await self.press(text + Keys.ENTER)

    async def script(self, script: str, *arguments: Any) -> Any:
        return await self._run(lambda: self.driver.execute_script(script, *arguments))

    async def later(self, script: str) -> None:
        """Run a script that calls its argument when it is done."""
        await self._run(lambda: self.driver.execute_async_script(script))

    async def command(self, name: str, **parameters: Any) -> None:
        """A command of the Chrome DevTools Protocol."""
        await self._run(lambda: self.driver.execute_cdp_cmd(name, parameters))

    async def complaints(self) -> list[str]:
        """What the browser wrote on its console since the last look: errors, refused resources."""
        entries = await self._run(lambda: self.driver.get_log("browser"))
        return [json.dumps(entry["message"]) for entry in entries]

    async def _run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)


@asynccontextmanager
async def started_browser() -> AsyncIterator[Browser]:
    """A browser with a profile of its own. Skips the test where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser (on Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the path given, selenium looks for nothing and downloads nothing.
    found = await asyncio.to_thread(lambda: webdriver.Chrome(options=options, service=Service(driver)))
    try:
        yield Browser(found)
    finally:
        await asyncio.to_thread(found.quit)
