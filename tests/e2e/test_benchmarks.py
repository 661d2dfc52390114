"""The benchmark itself: that every contestant does its work, and that what it did is looked at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from doc_runner import ROOT
from harness import PATIENCE_S, eventually, runs

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
WITHOUT_MARK = {
    "by-callers": {f"{callers} at once" for callers in (1, 4, 16, 64, 256)},
    "by-events": {f"{events} events" for events in (0, 5, 20, 100)},
    "by-indexes": {
        "all indexes",
        "all indexes, in pages of 16 KiB",
        *(f"without {index}" for index in ("by_time", "by_user", "by_batch", "by_session", "all of these")),
    },
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
            await process.wait()
    return process.returncode, said.decode()


async def test_every_contestant_of_every_contest_does_all_of_its_work(tmp_path: Path) -> None:
    """Each contest, run small, passes its own checks and has figures for every contestant."""
    code, said = await benchmarked(*WORKS, *WITHOUT_MARK, "--items=20", "--rounds=1", f"--into={tmp_path}")

    assert code == 0, said
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    found = {work: set(figures[work]["results"][0]["medians"]) for work in figures}
    assert WORKS | WITHOUT_MARK == found
    results = [result for work in figures.values() for result in work["results"]]
    assert all(rate > 0 for result in results for rate in result["medians"].values())
    marks = (tmp_path / "marks.md").read_text()
    assert [] == [work for work in WORKS if f"| {work} |" not in marks]


@pytest.mark.parametrize(
    ("work", "program"),
    [("stream-events", b"clickstream_server"), ("start", b"clickstream_server"), ("overload", b"\x0010.0\0")],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_benchmark_that_is_ended_leaves_no_process(
    tmp_path: Path, work: str, program: bytes, number: signal.Signals
) -> None:
    """However a benchmark ends, all that it has started ends with it; told to, it clears its folder away as well.

    (Those who call in `overload` do so for ten seconds, at the beginning of which this is.)
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "--quick", work, "--rounds=100", f"--into={tmp_path / 'figures'}"),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )

    async def started() -> set[int]:
        found = {pid: _command(pid) for pid in _descendants(process.pid)}
        here = [any(text in command for command in found.values()) for text in (b"clickstream_server", b"--dbpath")]
        at_work = [_is_connected(pid) for pid, command in found.items() if program in command]
        return set(found) if all(here) and any(at_work) else set()

    try:
        all_of_it = await eventually(started, "its server, its mongod and its program run")
        process.send_signal(number)
        async with asyncio.timeout(2 * PATIENCE_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def all_ended() -> bool:
        return not any(map(runs, all_of_it))

    if number == signal.SIGTERM:
        assert await all_ended()
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
        assert process.returncode == 130, said
        assert said.splitlines()[-1].startswith("stopped")
        assert not _left_in(tmp_path)
    await eventually(all_ended, "nothing of it runs", patience_s=PATIENCE_S / 5)


def _left_in(folder: Path) -> list[Path]:
    return list(folder.glob("clickstream-bench-*"))


def _command(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _is_connected(pid: int) -> bool:
    """Whether it has a connection over TCP; see proc(5)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        established = {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "01"}
        return any(str(found.readlink()) in established for found in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        found = set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return found.union(*map(_descendants, found))


@pytest.mark.parametrize("items", ["1999", "1"])
async def test_a_size_that_nothing_can_be_compared_with_is_refused_at_once(items: str) -> None:
    """at-size says which size it needs before it fills anything."""
    code, said = await benchmarked("at-size", f"--items={items}")

    assert code == 2
    assert "at-size needs --items of 2000 or more" in said


async def test_databases_of_a_chosen_size_are_measured(tmp_path: Path) -> None:
    """at-size takes any size that is large enough, also one that is no multiple of its batches."""
    code, said = await benchmarked("at-size", "--items=2001", "--rounds=1", f"--into={tmp_path}")

    assert code == 0, said
    assert "register, 2,001 stored" in (tmp_path / "marks.md").read_text()


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
