"""The figures of all works, in a folder: as JSON, as tables in Markdown, as pictures.

Works may be run one by one: each replaces its own figures and leaves the others'.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.marks import Verdict
from benchmarks.report import contestants_table, marks_table
from benchmarks.tables import Table

_PACKAGES = ("grpcio", "protobuf", "pymongo", "motor", "orjson", "pydantic", "uvloop")


class Folder:
    """Where the figures go. `order`: that of the works."""

    def __init__(self, path: Path, order: Sequence[str]) -> None:
        self._path = path
        self._order = order
        self._json = path / "figures.json"
        path.mkdir(parents=True, exist_ok=True)

    def keep(self, work: str, results: Sequence[Any], tables: Sequence[Table]) -> None:
        """Note what a work found."""
        figures = self.figures()
        figures[work] = {"machine": _machine(), "results": [result.as_json() for result in results]}
        in_order = {name: figures[name] for name in self._order if name in figures}
        self._json.write_text(json.dumps(in_order, indent=2) + "\n")
        self._write(work, tables)
        self._write("marks", [marks_table(self.verdicts())])
        self._write("contestants", [contestants_table(self._contests())])

    def _write(self, name: str, tables: Sequence[Table]) -> None:
        (self._path / f"{name}.md").write_text("\n".join(table.markdown() for table in tables))

    def verdicts(self) -> list[Verdict]:
        """Of all works that have figures here."""
        results = [result for work in self.figures().values() for result in work["results"]]
        return [Verdict.from_json(mark) for result in results for mark in result.get("marks", ())]

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._json.read_text()) if self._json.exists() else {}
        return found

    def _contests(self) -> list[dict[str, Any]]:
        """Those that have others to be held against."""
        results = [result for work in self.figures().values() for result in work["results"]]
        return [
            result
            for result in results
            if result.get("marks") and set(result.get("runs", ())) > set(result.get("ours", ()))
        ]

    def draw(self) -> str:
        """Make the pictures; return what there is to say of that."""
        if find_spec("matplotlib") is None:
            return "without pictures, since matplotlib is not installed (make bench installs it)"
        from benchmarks import charts

        drawn = charts.draw(self.figures(), self._path)
        pictures = "".join(f", {path.name}" for path in drawn)
        return f"in {self._path}: figures.json, tables as marks.md and WORK.md{pictures}"


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
