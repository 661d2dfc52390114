"""The pages for other languages are run as printed, each on a server that holds nothing yet."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

from polyglot.languages import Language

from doc_runner import ROOT, Walk, steps_of

BUILT = ignore_patterns("bin", "node_modules", "dist", "generated", "target")


async def test_the_page_is_followed(language: Language, tmp_path: Path) -> None:
    """Every command of the language's page, run as printed and in order, prints what stands below it."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    copytree(ROOT / "protos", tmp_path / "protos")
    copytree(language.folder, tmp_path / "examples" / language.folder.name, ignore=BUILT)
    walk = Walk(tmp_path, ROOT / "docs" / f"{language.folder.name}.md")

    async with walk.make_run():
        await walk.follow(list(steps_of(walk.text)), [])
