"""The pages for other languages are run as printed, each on a server that holds nothing yet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from polyglot.languages import BUILD_S, Language

from doc_runner import ROOT, Command, Walk, steps_of


async def test_the_page_is_followed(language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the language's page, run as printed and in order, prints what stands below it.

    The line that builds the example has been run already, for all tests together.
    """
    # In Rust what a program of one's own needs is compiled for the examples already.
    monkeypatch.setenv("CARGO_TARGET_DIR", str(language.folder / "target"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for folder in ("examples", "protos"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    walk = Walk(tmp_path, ROOT / "docs" / f"{language.folder.name}.md", patience_s=BUILD_S)
    steps = list(steps_of(walk.text))
    assert Command(language.build, "") in steps

    async with walk.make_run():
        await walk.follow(steps, [language.build])
