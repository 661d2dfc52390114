"""The pages for other languages are run as printed, each on a server that holds nothing yet."""

from __future__ import annotations

import sys
from pathlib import Path

from polyglot.languages import Language

from doc_runner import ROOT, Command, Walk, steps_of


async def test_the_page_is_followed(language: Language, tmp_path: Path) -> None:
    """Every command of the language's page, run as printed and in order, prints what stands below it.

    The line that builds the example has been run already, for all tests together.
    """
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for folder in ("examples", "protos"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    walk = Walk(tmp_path, ROOT / "docs" / f"{language.folder.name}.md")
    steps = list(steps_of(walk.text))
    assert Command(language.build, "") in steps

    async with walk.make_run():
        await walk.follow(steps, [language.build])
