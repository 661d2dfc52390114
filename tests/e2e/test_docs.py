"""The pages for producers, backfills and consumers are run as printed, each on a server that holds nothing yet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from doc_runner import ROOT, Command, Walk, steps_of

NOT_RUN: dict[str, dict[str, str]] = {"producers": {}, "backfills": {}, "consumers": {}}
"""By page: how the lines begin that are not run, and why not."""


@pytest.mark.parametrize("name", NOT_RUN)
async def test_the_lines_of_a_page_print_what_it_says(name: str, tmp_path: Path) -> None:
    """Every command of the page, run as printed and in order, prints what stands below it."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    walk = Walk(tmp_path, ROOT / "docs" / f"{name}.md")
    steps = list(steps_of(walk.text))
    assert steps, "a page with nothing to run proves nothing"

    async with walk.make_run():
        await walk.follow(steps, list(NOT_RUN[name]))


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_is_not_run_stands_in_the_page(name: str) -> None:
    """The list of lines that are not run names only lines that are there."""
    page = (ROOT / "docs" / f"{name}.md").read_text()
    lines = [step.line for step in steps_of(page) if isinstance(step, Command)]

    assert [] == [start for start in NOT_RUN[name] if not any(line.startswith(start) for line in lines)]
