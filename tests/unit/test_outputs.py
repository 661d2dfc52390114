"""Where an export goes: what stands there already, what others see of it meanwhile, and what is left if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import sys
from clickstream_server.bulk.outputs import Output

output = Output(sys.argv[1])
output.write(b"in\\n")
output.commit()
"""
OPEN = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]


@pytest.mark.parametrize(
    ("mode", "output"), [*(("r+b", each) for each in OPEN), *(("ab", each) for each in [*OPEN, "/proc/$$/fd/1"])]
)
def test_an_open_file_keeps_what_it_has(tmp_path: Path, mode: str, output: str) -> None:
    """An export to a file that is open already goes on where that file stands, and what comes after goes behind it."""
    file = tmp_path / "a"
    file.write_bytes(b"before\n")
    program = f'echo head; "{sys.executable}" -c "$0" "{output}"; echo tail'

    with file.open(mode) as out:
        out.seek(0, os.SEEK_END)
        subprocess.run(["sh", "-c", program, WRITES], stdout=out, check=True)

    assert b"before\nhead\nin\ntail\n" == file.read_bytes()
