"""`python -m benchmarks.ui`: how soon the page shows its data, and what it adds to the server's start.

Starts a server of its own with the sample log, and loads the page in a headless Chromium, anew each time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from clickstream_server.app import running
from clickstream_server.config import Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from browser import Browser, started_browser  # it lies with the tests
from harness import eventually, run_program

_NOTE_WHEN_SHOWN = """
    new MutationObserver((_, observer) => {
      if (!document.querySelector('#batches tr')) return;
      observer.disconnect();
      requestAnimationFrame(() => setTimeout(() => { window.shownAt = performance.now(); }));
    }).observe(document, { childList: true, subtree: true });
"""
"""Notes when the batches are on the screen: after the frame that follows their coming into the document."""
_TIMES = """
    if (window.outdated) return [null];
    const load = performance.getEntriesByType('navigation')[0];
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    return [load.domContentLoadedEventEnd, paint?.startTime ?? null, window.shownAt ?? null];
"""
_COST_OF_START = """
import asyncio, time
import clickstream_server.app
from clickstream_server.config import Settings
async def main():
    began, cpu = time.perf_counter(), time.process_time()
    from clickstream_server.security.gate import Gate
    from clickstream_server.ui.page import page_served
    async with page_served(Settings(ui_listen="127.0.0.1:0"), None, None, Gate(None), address="", storage=""):
        print((time.perf_counter() - began) * 1000, (time.process_time() - cpu) * 1000)
asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ui", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how often the page is loaded, and a server started")
    asyncio.run(_run(parser.parse_args().rounds))


async def _run(rounds: int) -> None:
    tabs, reloads = await _loads(rounds)
    starts = [await _start() for _ in range(rounds)]
    print(f"{rounds} rounds, milliseconds: median (lowest to highest)")
    for how, loads in (("reloaded", reloads), ("new tab", tabs)):
        for place, what in enumerate(("document ready", "first paint", "batches shown")):
            _show(f"{how}: {what}", [load[place] for load in loads])
    _show("server's start: on the clock", [start[0] for start in starts])
    _show("server's start: processor", [start[1] for start in starts])


async def _loads(rounds: int) -> tuple[list[list[float]], list[list[float]]]:
    """In new tabs, and by reloading."""
    with TemporaryDirectory(prefix="clickstream-bench-") as folder:
        settings = Settings(listen="127.0.0.1:0", ui_listen="127.0.0.1:0", data_dir=Path(folder))
        async with running(settings) as server, started_browser() as browser:
            code, _, errors = await run_program("replay", "--sample", "--target", server.address)
            assert code == 0, errors
            await browser.command("Page.addScriptToEvaluateOnNewDocument", source=_NOTE_WHEN_SHOWN)
            await browser.open(server.page)  # the first one starts the browser's own processes
            tabs = [await _load(browser, server.page) for _ in range(rounds)]
            return tabs, [await _reload(browser) for _ in range(rounds)]


async def _reload(browser: Browser) -> list[float]:
    """Nothing is cached: the page's files say no-store."""
    await browser.script("window.outdated = true")
    await browser.command("Page.reload", ignoreCache=True)
    return await _shown(browser)


async def _load(browser: Browser, url: str) -> list[float]:
    """As in a new tab, for which the browser takes a new process."""
    await browser.open(url)
    return await _shown(browser)


async def _shown(browser: Browser) -> list[float]:
    async def times() -> list[float] | None:
        found = await browser.script(_TIMES)
        return None if None in found else found

    measured: list[float] = await eventually(times, "the page shows its batches")
    return measured


async def _start() -> tuple[float, float]:
    """What importing and starting the page costs a process that has all else, on the clock and on the processor."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _COST_OF_START), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    clock, processor = map(float, out.split())
    return clock, processor


def _show(name: str, figures: Sequence[float]) -> None:
    print(f"  {name:<36}{median(figures):7.1f} ({min(figures):.1f} to {max(figures):.1f})")


main()
