"""The pages of docs/ with lines to run are run as printed, each on a server that holds nothing yet."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from doc_runner import ROOT, Command, Walk, steps_of

TORCH = {
    f".venv/bin/python {script}": "needs PyTorch, which is large: `make test-torch TORCH=pypi` runs these lines, too"
    for script in ("loader.py", "-W ignore resume.py")
}
NOT_RUN: dict[str, dict[str, str]] = {
    "producers": {},
    "backfills": {},
    "consumers": {},
    "debugging": {},
    "observability": {},
    "training": {
        ".venv/bin/pip install": "a test installs nothing; what is missing is missing",
        **({} if find_spec("torch") else TORCH),
    },
}
"""By page: how the lines begin that are not run, and why not."""
OPTIONS = {"observability": ["--metrics-listen=127.0.0.1:0"]}
"""By page: what the server is started with."""
TOOLS = {"grpcurl": "make tools", "curl": "apt install curl"}


@pytest.mark.parametrize("name", NOT_RUN)
async def test_the_lines_of_a_page_print_what_it_says(name: str, tmp_path: Path) -> None:
    """Every command of the page, run as printed and in order, prints what stands below it."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    walk = Walk(tmp_path, ROOT / "docs" / f"{name}.md")
    steps = list(steps_of(walk.text))
    assert steps, "a page with nothing to run proves nothing"

    used = [tool for tool in TOOLS if any(isinstance(step, Command) and step.line.startswith(tool) for step in steps)]
    missing = [tool for tool in used if shutil.which(tool, path=walk.path) is None]

    async with walk.make_run(None, *OPTIONS.get(name, [])):
        await walk.follow(steps, [*NOT_RUN[name], *missing])
    for tool in missing:
        pytest.skip(f"all lines agree but those of {tool}, which is not there: {TOOLS[tool]}")


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_is_not_run_stands_in_the_page(name: str) -> None:
    """The list of lines that are not run names only lines that are there."""
    page = (ROOT / "docs" / f"{name}.md").read_text()
    lines = [step.line for step in steps_of(page) if isinstance(step, Command)]

    assert [] == [start for start in NOT_RUN[name] if not any(line.startswith(start) for line in lines)]
