"""Where an export goes: what stands there already, what others see of it meanwhile, and what is left if it fails."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clickstream_server.bulk.outputs import Output, Written, _Whole
from clickstream_server.failures import StartFailure
from harness import PATIENCE_S, eventually, stands_still

TELLS_LOCK = """
import fcntl
import sys
from clickstream_server.bulk.outputs import Output


def told(event, arguments):
    if event in {"os.rename", "os.remove"}:
        with open(sys.argv[1] + ".part", "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print(event, "free")
            except BlockingIOError:
                print(event, "locked")


output = Output(sys.argv[1])
sys.addaudithook(told)
output.commit()
Output(sys.argv[1]).abandon(keep=False)
"""
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


async def test_an_output_that_does_not_block_is_waited_for() -> None:
    """Where a pipe is full that its owner made non-blocking, writing waits for room instead of trying without end."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    tries = 0

    class Counted(io.FileIO):
        def write(self, data: Any, /) -> int | None:  # type: ignore[override]  # None: as of a raw file
            nonlocal tries
            tries += 1
            return super().write(data)

    data = os.urandom(1024 * 1024)
    with Counted(theirs, "wb") as raw, os.fdopen(ours, "rb") as reader:
        writing = asyncio.create_task(asyncio.to_thread(_Whole(raw).write, data))

        async def is_full() -> bool:
            return tries > 0

        await eventually(is_full, "the pipe was tried")
        async with asyncio.timeout(PATIENCE_S):
            await stands_still(lambda: tries)
        found = await asyncio.to_thread(reader.read, len(data))
        await writing

    assert data == found


def test_a_part_is_locked_until_it_has_its_name_or_is_gone(tmp_path: Path) -> None:
    """Nobody else can write into the part of an export while it is renamed or removed, or its state is."""
    program = [sys.executable, "-c", TELLS_LOCK, str(tmp_path / "a")]

    said = subprocess.run(program, capture_output=True, text=True, check=True).stdout

    assert {"os.rename locked", "os.remove locked"} == set(said.splitlines())


def test_a_gzip_stream_that_is_given_up_has_no_end(tmp_path: Path) -> None:
    """What reads a named pipe gets no whole stream of an export that failed, and so can tell."""
    pipe = tmp_path / "a.csv.gz"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(pipe.read_bytes)
        output = Output(str(pipe))
        output.write(b"a,b\n" * 1000)
        output.abandon(keep=False)
        del output
        unpacker = zlib.decompressobj(wbits=31)
        unpacker.decompress(reading.result())

    assert not unpacker.eof


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_stays_as_private_as_it_was(tmp_path: Path, mode: int) -> None:
    """The part, and the file that it becomes, can be read by those alone who could read the file before."""
    file = tmp_path / "a"
    file.touch()
    file.chmod(mode)

    output = Output(str(file))
    while_written = (tmp_path / "a.part").stat().st_mode
    output.commit()

    assert [mode, mode] == [stat.S_IMODE(found) for found in (while_written, file.stat().st_mode)]


def test_an_export_into_a_file_that_may_not_be_written_can_be_gone_on_with(tmp_path: Path) -> None:
    """The part of an export that replaces a read-only file can be opened again; the file is read-only in the end."""
    file = tmp_path / "a"
    file.touch()
    file.chmod(0o444)
    output = Output(str(file))
    output.write(b"first\n")
    left = output.written
    output.abandon(keep=True)

    assert stat.S_IMODE((tmp_path / "a.part").stat().st_mode) == 0o644  # root may open it in any case
    output = Output(str(file), behind=left)
    output.write(b"second\n")
    output.commit()
    assert (b"first\nsecond\n", 0o444) == (file.read_bytes(), stat.S_IMODE(file.stat().st_mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_is_replaced_stays_its_owners(tmp_path: Path) -> None:
    """Root's export into somebody's file leaves it theirs, so that they can still read it."""
    file = tmp_path / "a"
    file.touch()
    os.chown(file, 4711, 4712)

    Output(str(file)).commit()

    assert (4711, 4712) == (file.stat().st_uid, file.stat().st_gid)


def test_a_part_that_is_begun_anew_has_no_state(tmp_path: Path) -> None:
    """What was kept of a part does not outlive it, whatever is written there next."""
    (tmp_path / "a.part").write_bytes(b"before")
    (tmp_path / "a.part.resume").write_text("how far it was")

    output = Output(str(tmp_path / "a"))
    output.write(b"PAR1")

    assert ["a.part"] == [path.name for path in tmp_path.iterdir()]
    output.abandon(keep=True)


@pytest.mark.parametrize("content", [b"one\ntwo", b"one\n", b""])
def test_only_what_was_left_is_gone_on_with(tmp_path: Path, content: bytes) -> None:
    """A part with other bytes than those that were written, or fewer, is not gone on with, and stays as it is."""
    part = tmp_path / "a.part"
    part.write_bytes(content)

    with pytest.raises(StartFailure, match="not as it was left"):
        Output(str(tmp_path / "a"), behind=Written(7, hashlib.sha256(b"one\nTWO").hexdigest()))

    assert content == part.read_bytes()
