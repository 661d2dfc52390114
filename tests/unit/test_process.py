"""What a process of the server sets up before it serves."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

THREADS = """
import ctypes, sys, threading
from clickstream_server.process import use_memory_well
if sys.argv[1]:
    use_memory_well()
all_there = threading.Barrier(8)
def hold():
    held = bytearray(1000)
    all_there.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""
"""Eight threads that hold memory at once; then glibc tells of its arenas, each on a line of its own."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_arenas() -> None:
    """All threads of a server share two arenas, or as many as MALLOC_ARENA_MAX says; else each has its own."""
    assert 2 == arenas("set up")
    assert 5 == arenas("set up", MALLOC_ARENA_MAX="5")
    assert 8 <= arenas("")


def arenas(set_up: str, **environment: str) -> int:
    """How many arenas a process with eight threads has."""
    others = {name: value for name, value in os.environ.items() if name not in {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}}
    command = [sys.executable, "-c", THREADS, set_up]
    told = subprocess.run(command, env=others | environment, capture_output=True, text=True, check=True).stderr
    return sum(line.startswith("Arena ") for line in told.splitlines())
