"""Make what is committed from `protos/`: the Python code, the descriptor set and, where Go is installed, the Go code.

With `--check`, only say whether the first two are up to date; tests/polyglot checks the third.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf import duration_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("clickstream") / "v1"
DESCRIPTORS = Path("protos") / "clickstream.binpb"


def generate(into: Path) -> None:
    """Messages and type stubs for every file, service code for those that define services, and the descriptor set."""
    protos = sorted(str(path) for path in (ROOT / "protos" / PACKAGE).glob("*.proto"))
    services = [path for path in protos if path.endswith("_service.proto")]
    include = [f"-I{ROOT / 'protos'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    descriptors = into / DESCRIPTORS
    for folder in (into / "client", descriptors.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for arguments in (
        [f"--python_out={into / 'client'}", f"--pyi_out={into / 'client'}", *protos],
        [f"--grpc_python_out={into / 'client'}", *services],
        [f"--descriptor_set_out={descriptors}", "--include_imports", "--include_source_info", *protos],
    ):
        if protoc.main(["protoc", *include, *arguments]) != 0:
            sys.exit("protoc failed")
    found = FileDescriptorSet.FromString(descriptors.read_bytes())
    _keep_comments_only(found)
    _add_what_is_not_imported(found)
    descriptors.write_bytes(found.SerializeToString(deterministic=True))


def generate_go() -> None:
    """The example's code, by the rules and with the plugins that stand in its folder."""
    if shutil.which("go"):
        buf = Path(sys.executable).parent / "buf"
        subprocess.run([buf, "generate"], cwd=ROOT / "examples" / "go", check=True)  # noqa: S603  # nobody's input
    else:
        sys.stderr.write("examples/go/clickstream was left as it is: that needs go\n")


def _keep_comments_only(found: FileDescriptorSet) -> None:
    """Of the source info keep our own comments; where each name stands in its file takes six times the space."""
    for file in found.file:
        commented = [place for place in file.source_code_info.location if place.leading_comments]
        file.ClearField("source_code_info")
        if file.package == ".".join(PACKAGE.parts):
            file.source_code_info.location.extend(commented)


def _add_what_is_not_imported(found: FileDescriptorSet) -> None:
    """Health, and the details of errors, which travel as Any: without them tools show these packed."""
    there = {file.name for file in found.file}
    for others in (duration_pb2, error_details_pb2, health_pb2):  # each after what it imports
        if others.DESCRIPTOR.name not in there:
            others.DESCRIPTOR.CopyToProto(found.file.add())


def generated(root: Path) -> dict[Path, bytes]:
    """What `generate` makes, as it stands below this folder."""
    paths = [path for path in (root / "client" / PACKAGE).iterdir() if path.is_file()]
    return {path.relative_to(root): path.read_bytes() for path in [*paths, root / DESCRIPTORS] if path.is_file()}


def main() -> None:
    """Compare what would be generated with what is there; say what differs, or put it right."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh, there = generated(Path(scratch)), generated(ROOT)
    wrong = sorted(path for path in fresh.keys() | there.keys() if fresh.get(path) != there.get(path))
    if "--check" in sys.argv:
        if wrong:
            sys.exit(f"this does not match protos/: {', '.join(map(str, wrong))}; run `make generate`")
        return
    for path in wrong:
        if path in fresh:
            (ROOT / path).write_bytes(fresh[path])
        else:  # of a proto that is gone: protobuf takes no message twice
            (ROOT / path).unlink()
    generate_go()


if __name__ == "__main__":
    main()
