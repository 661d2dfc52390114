"""Write the lowest versions that pyproject.toml declares as constraints for pip, for `make test-versions`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
EXTRA = "production"
"""What the server needs beside the client's own dependencies."""


def lowest(project: str) -> dict[str, str]:
    """By package the lower bound that stands in this pyproject.toml. Raises ValueError for one without."""
    declared = tomllib.loads(project)["project"]
    bounds = {}
    for text in [*declared["dependencies"], *declared["optional-dependencies"][EXTRA]]:
        requirement = Requirement(text)
        lower = [found.version for found in requirement.specifier if found.operator in {">=", "=="}]
        if len(lower) != 1:
            raise ValueError(
                f"{requirement.name} needs one lower bound, and has {str(requirement.specifier) or 'none'}"
            )
        bounds[requirement.name] = lower[0]
    return bounds


def main() -> None:
    """One line a package."""
    for name, version in lowest((ROOT / "pyproject.toml").read_text()).items():
        sys.stdout.write(f"{name}=={version}\n")


if __name__ == "__main__":
    main()
