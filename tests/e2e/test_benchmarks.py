"""The benchmark itself: that every contestant does its work, and that what it did is looked at."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from doc_runner import ROOT
from harness import PATIENCE_S

WORKS = {
    "register": {"Motor", "plain", "empty", "empty, one by one", "empty, our client"},
    "register-one": {"Motor", "direct", "empty", "empty, one by one"},
    "push-events": {"Motor", "plain", "direct", "empty", "empty, one by one", "empty, our client"},
    "stream-events": {"Motor", "direct"},
    "import-sessions": {"Motor", "direct"},
    "get-session": {"Motor", "plain", "empty", "empty, one by one", "empty, our client"},
    "get-batch": {"Motor", "direct", "plain"},
    "export": {"Motor", "direct"},
}


_PAGE = """before
<!-- build/bench/marks.md -->
{}
<!-- end -->
between
<!-- build/bench/memory.md -->
| kept |
<!-- end -->
"""


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


def test_pasting_replaces_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    """A page gets the tables that are there, keeps those that are not, and is the same after a second time."""
    for folder in ("docs/images", "build/bench"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "build/bench/marks.md").write_text("| new |\n")
    (tmp_path / "build/bench/marks.png").write_bytes(b"picture")
    page = tmp_path / "docs/page.md"
    page.write_text(_PAGE.format("| old |"))

    for _ in range(2):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.paste"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            timeout=PATIENCE_S,
        )

        assert _PAGE.format("| new |") == page.read_text()
        assert (tmp_path / "docs/images/marks.png").read_bytes() == b"picture"
