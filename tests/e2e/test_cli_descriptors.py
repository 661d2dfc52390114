"""What `clickstream` does where its standard output is full, has lost its reader, or was closed from the start."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from clickstream import ClickstreamClient, Session
from harness import PATIENCE_S, run_program

ROW = b'{"session":{"session_id":"s","created_at":"2020-01-01T00:00:00Z"}}\n'
BUFFERED = {"PYTHONUNBUFFERED": ""}
"""As with people: what is printed is kept for a while."""


async def through_shell(line: str, *arguments: str) -> tuple[int | None, str]:
    """Run `clickstream` with these arguments as `"$@"` of a shell's line; return its exit code and its errors."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"set -o pipefail; {line}", "bash", sys.executable, "-m", "clickstream_server", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | BUFFERED,
    )
    async with asyncio.timeout(PATIENCE_S):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('"$@" >/dev/full', "No space left on device"),
        ('"$@" | true', "Broken pipe"),
        ('"$@" >&-', "Bad file descriptor"),
    ],
)
@pytest.mark.parametrize("command", [["ping"], ["import", "FILE"], ["replay", "--sample", "2"], ["demo"]])
async def test_what_cannot_be_printed_is_one_line(
    client: ClickstreamClient, tmp_path: Path, command: list[str], line: str, why: str
) -> None:
    """A command that cannot print says so in one line, and ends with code 1; an import also says what is stored."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(ROW)
    arguments = [str(file) if argument == "FILE" else argument for argument in command]
    target = [] if command == ["demo"] else ["--target", client.target]

    code, errors = await through_shell(line, *arguments, *target)

    assert (1, 1) == (code, len(errors.splitlines())), errors
    assert errors.startswith(f"clickstream: cannot write standard output: {why}")
    assert ("So far" in errors) == (command[0] in {"import", "replay"})


async def test_closed_descriptors_are_nobody_elses(client: ClickstreamClient) -> None:
    """With standard output closed nothing is printed into a connection that has taken its number."""
    batch_id = (await client.register_session(Session(session_id="s"))).session.batch_id
    await client.release_batch("r")

    assert (1, "clickstream: cannot write: Bad file descriptor\n") == await through_shell(
        '"$@" >&-', "tail", batch_id, "--target", client.target
    )
    code, errors = await through_shell('"$@" >&-', "export", "--target", client.target)
    assert (1, True) == (code, "cannot write standard output: Bad file descriptor" in errors), errors
    assert (0, "") == await through_shell('"$@" 2>&-', "tail", batch_id, "--target", client.target)


async def test_ctrl_c_while_it_starts_is_one_line(tmp_path: Path) -> None:
    """Ctrl-C before the command line was read, which takes a moment, ends the program without a traceback."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "class AtGrpc:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'grpc':\n"
        "            sys.meta_path.remove(self)\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, AtGrpc())\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    assert (130, "", "clickstream: interrupted\n") == await run_program("ping", PYTHONPATH=path)
