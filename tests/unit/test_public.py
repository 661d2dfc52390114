"""What users import is public: docs/compatibility.md says what may not change."""

from __future__ import annotations

import re
from pathlib import Path

import clickstream
import clickstream.datasets

ROOT = Path(__file__).resolve().parents[2]
WITH_LISTS = {"clickstream": clickstream.__all__, "clickstream.datasets": clickstream.datasets.__all__}
GENERATED = "clickstream.v1"


def test_what_the_pages_import_is_public() -> None:
    """README, the pages and the examples take from Python only what the page on compatibility promises to keep."""
    promised = (ROOT / "docs" / "compatibility.md").read_text()
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py")]
    text = "\n".join(page.read_text() for page in pages)
    imports = re.findall(r"^\s*from (clickstream\b[.\w]*) import (\([^)]*\)|.+)$", text, re.MULTILINE)
    taken = {(module, name) for module, names in imports for name in re.findall(r"\w+", names)}

    assert ("clickstream", "ClickstreamClient") in taken
    assert [] == sorted((module, name) for module, name in taken if name not in WITH_LISTS.get(module, [name]))
    modules = {module for module, _ in taken if not module.startswith(GENERATED)} - WITH_LISTS.keys()
    assert [] == sorted(module for module in modules if f"`{module}`" not in promised)
