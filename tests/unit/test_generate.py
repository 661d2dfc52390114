"""`make generate` makes what `make check` wants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

ROOT = Path(__file__).resolve().parents[2]
GENERATED = Path("client", "clickstream", "v1")


def run(root: Path, *arguments: str) -> tuple[int, str]:
    """The tool in a copy of the project, where there is no Go."""
    line = [sys.executable, str(root / "tools" / "generate.py"), *arguments]
    done = subprocess.run(
        line, env=os.environ | {"PATH": str(root)}, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As much of the project as is read and written."""
    for folder in ("tools", "protos", GENERATED):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_descriptor_set_is_enough_for_tools() -> None:
    """Every file of the descriptor set finds what it imports before it, and health and details of errors are there."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString((ROOT / "protos" / "clickstream.binpb").read_bytes()).file:
        pool.Add(file)

    for details in ("ErrorInfo", "RetryInfo", "BadRequest", "RequestInfo"):
        assert pool.FindMessageTypeByName(f"google.rpc.{details}").fields
    assert pool.FindServiceByName("grpc.health.v1.Health").methods


def test_a_proto_that_is_gone_leaves_nothing_behind(project: Path) -> None:
    """What is old, missing or left over is named by the check, and put right by generating."""
    (project / GENERATED / "gone_pb2.py").write_text("left over")
    (project / GENERATED / "batch_pb2.py").write_text("old")
    (project / GENERATED / "event_pb2.pyi").unlink()
    code, said = run(project, "--check")
    generated = run(project)

    assert (1, 3) == (code, said.count(f"{GENERATED}/"))
    assert 0 == generated[0], generated[1]
    assert (0, "") == run(project, "--check")
    assert not (project / GENERATED / "gone_pb2.py").exists()
