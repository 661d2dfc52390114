"""Make docs/images/page.png, the picture of the page in the README: the sample log on a server of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from clickstream import ClickstreamClient
from clickstream_server.app import running
from clickstream_server.config import Settings

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "page.png"
PICTURE_BYTES_MAX = 200_000
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser, started_browser  # noqa: E402  # it lies with the tests
from harness import run_program  # noqa: E402


async def main() -> None:
    with TemporaryDirectory(prefix="clickstream-screenshot-") as folder:
        settings = Settings(listen="127.0.0.1:0", ui_listen="127.0.0.1:0", data_dir=Path(folder))
        async with running(settings) as server, ClickstreamClient(server.address) as client, started_browser() as found:
            code, _, errors = await run_program("replay", "--sample", "--target", server.address)
            assert code == 0, errors
            batch = (await client.release_batch("training-1")).batch
            await _take(found, f"{server.page}#batch/{batch.batch_id}")
    size = PICTURE.stat().st_size
    assert size <= PICTURE_BYTES_MAX, f"{PICTURE} has {size:,} bytes"
    print(f"{PICTURE.relative_to(ROOT)}: {size:,} bytes")


async def _take(browser: Browser, url: str) -> None:
    await browser.command(
        "Emulation.setDeviceMetricsOverride", width=1280, height=880, deviceScaleFactor=1, mobile=False
    )
    await browser.command("Emulation.setScrollbarsHidden", hidden=True)
    await browser.command("Emulation.setTimezoneOverride", timezoneId="UTC")
    await browser.open(url)

    await browser.shows("h3", "Sessions 1 to 25 of 200")
    await browser.click(".session[data-number='4'] summary")
    PICTURE.parent.mkdir(exist_ok=True)
    await asyncio.to_thread(browser.driver.save_screenshot, str(PICTURE))


asyncio.run(main())
