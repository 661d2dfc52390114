"""The benchmark itself: that every contestant does its work, and that what it did is looked at."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from doc_runner import ROOT
from harness import PATIENCE_S

WORKS = {
    "register": {"Motor", "plain", "empty", "empty, our client"},
    "register-one": {"Motor", "direct", "empty"},
    "push-events": {"Motor", "plain", "direct", "empty", "empty, our client"},
    "stream-events": {"Motor", "direct"},
    "import-sessions": {"Motor", "direct"},
    "get-session": {"Motor", "plain", "empty", "empty, our client"},
    "get-batch": {"Motor", "direct", "plain"},
    "export": {"Motor", "direct"},
}


async def benchmarked(*arguments: str) -> tuple[int | None, str]:
    """Run the benchmark; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "--quick", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(10 * PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, said.decode()


async def test_every_contestant_of_every_contest_does_all_of_its_work(tmp_path: Path) -> None:
    """Each contest, run small, passes its own checks and has figures for every contestant."""
    code, said = await benchmarked(*WORKS, "--items=20", "--rounds=1", f"--into={tmp_path}")

    assert code == 0, said
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    found = {work: set(figures[work]["results"][0]["medians"]) for work in figures}
    assert WORKS == found
    assert all(rate > 0 for work in figures.values() for rate in work["results"][0]["medians"].values())
    marks = (tmp_path / "marks.md").read_text()
    assert [] == [work for work in WORKS if f"| {work} |" not in marks]
