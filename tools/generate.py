"""Make `client/clickstream/v1` from `protos/`; with `--check`, only say whether it is up to date."""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("clickstream") / "v1"


def generate(into: Path) -> None:
    """Messages and type stubs for every file, service code for those that define services."""
    protos = sorted(str(path) for path in (ROOT / "protos" / PACKAGE).glob("*.proto"))
    services = [path for path in protos if path.endswith("_service.proto")]
    include = [f"-I{ROOT / 'protos'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    for arguments in (
        [f"--python_out={into}", f"--pyi_out={into}", *protos],
        [f"--grpc_python_out={into}", *services],
    ):
        if protoc.main(["protoc", *include, *arguments]) != 0:
            sys.exit("protoc failed")


def main() -> None:
    """Generate, or compare what would be generated with what is there."""
    target = ROOT / "client"
    if "--check" not in sys.argv:
        generate(target)
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.name for path in (Path(scratch) / PACKAGE).iterdir()}
        there = {path.name for path in (target / PACKAGE).iterdir() if path.is_file()}
        _, different, errors = filecmp.cmpfiles(Path(scratch) / PACKAGE, target / PACKAGE, fresh & there, shallow=False)
    wrong = sorted({*different, *errors, *(fresh ^ there)})
    if wrong:
        sys.exit(f"client/clickstream/v1 does not match protos/ ({', '.join(wrong)}): run `make generate`")


if __name__ == "__main__":
    main()
