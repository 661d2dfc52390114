"""The committed descriptor set serves the tools that the page of the examples names."""

from __future__ import annotations

import sys
from pathlib import Path

from doc_runner import ROOT, Walk, steps_of


async def test_the_lines_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    """The descriptor set is all that buf and, where it is installed, grpcurl need for a call."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    walk = Walk(tmp_path, ROOT / "examples" / "README.md")
    not_run = [] if (Path(sys.prefix) / "bin" / "grpcurl").exists() else [".venv/bin/grpcurl "]

    async with walk.make_run():
        await walk.follow(list(steps_of(walk.text)), not_run)
