"""The Go code, which is committed with what was generated, is current and in its form; so is the form of Rust's.

Node's, Java's and Rust's is generated when it is built, and their compilers check it strictly then.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from polyglot.languages import LANGUAGES, Language
from polyglot.programs import run_to_end

GO = [language for language in LANGUAGES if language.name == "Go"]
RUST = [language for language in LANGUAGES if language.name == "Rust"]


@pytest.mark.parametrize("language", GO, ids=str, indirect=True)
async def test_what_is_generated_is_current(language: Language, tmp_path: Path) -> None:
    """The committed code is what buf and the plugins of go.mod make of the protos."""
    buf = Path(sys.executable).parent / "buf"
    code, output = await run_to_end(
        str(buf), "generate", "--output", str(tmp_path), cwd=language.folder, patience_s=300
    )
    assert 0 == code, output

    package = Path("clickstream", "v1")
    fresh = {path.name: path.read_bytes() for path in (tmp_path / package).iterdir()}
    there = {path.name: path.read_bytes() for path in (language.folder / package).iterdir()}
    assert fresh == there, "make generate"


@pytest.mark.parametrize("language", GO, ids=str, indirect=True)
async def test_the_code_is_in_its_form(language: Language) -> None:
    """gofmt has nothing to change and go vet nothing to say."""
    assert (0, "") == await run_to_end("gofmt", "-l", ".", cwd=language.folder)
    code, output = await run_to_end("go", "vet", "./...", cwd=language.folder, patience_s=300)
    assert 0 == code, output


@pytest.mark.parametrize("language", RUST, ids=str, indirect=True)
async def test_the_form_is_rustfmts(language: Language) -> None:
    """rustfmt has nothing to change."""
    if shutil.which("cargo-fmt") is None:
        pytest.skip("needs cargo-fmt, which is not on PATH")
    assert (0, "") == await run_to_end("cargo", "fmt", "--check", cwd=language.folder)
