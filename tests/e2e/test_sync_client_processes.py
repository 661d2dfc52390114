"""SyncClickstreamClient in programs that end, fork, spawn and pickle."""

from __future__ import annotations

import asyncio
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from clickstream import (
    Session,
    SyncClickstreamClient,
)
from harness import PATIENCE_S, ServerProcess, run_python

FORGETFUL = """
import sys
from clickstream import SyncClickstreamClient
client = SyncClickstreamClient(sys.argv[1])
sessions = client.get_batch_sessions("", follow=True)
print(next(sessions).session.session_id, flush=True)
if len(sys.argv) > 2:
    next(sessions)
"""


async def test_a_program_that_closes_nothing_ends(server: ServerProcess) -> None:
    """A program that leaves a client and a stream open ends by itself, without a word."""
    with SyncClickstreamClient(server.address) as client:
        client.register_session(Session(session_id="s"))

    assert (0, "s\n", "") == await run_python("-c", FORGETFUL, server.address)


async def test_ctrl_c_ends_a_wait(server: ServerProcess) -> None:
    """SIGINT ends a program that waits for the next session of a stream, by KeyboardInterrupt."""
    with SyncClickstreamClient(server.address) as client:
        client.register_session(Session(session_id="s"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORGETFUL, server.address, "wait"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert b"s\n" == await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()

    assert -signal.SIGINT == process.returncode
    assert errors.decode().rstrip().endswith("KeyboardInterrupt")


PROCESSES = """
import multiprocessing, sys
from clickstream import ForkedProcess, SyncClickstreamClient

def told(call):
    try:
        return call()
    except ForkedProcess:
        return "ForkedProcess"

def child(client, sessions, answers):
    answers.put(told(lambda: len(client.list_batches().batches)))
    if sessions is not None:
        answers.put(told(lambda: next(sessions).session_number))
    client.close()

if __name__ == "__main__":
    client, sessions = SyncClickstreamClient(sys.argv[1]), None
    if sys.argv[3] == "others closed unused":
        SyncClickstreamClient(sys.argv[1]).close()
        SyncClickstreamClient(sys.argv[1])  # is closed when it is collected as garbage: at once
    elif sys.argv[3] != "unused":
        client.list_batches()
    if sys.argv[3] == "streaming":
        sessions = client.get_batch_sessions("", follow=True)
        next(sessions)
    context = multiprocessing.get_context(sys.argv[2])
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(client, sessions, answers))
    process.start()
    print(answers.get())
    if sessions is not None:
        print(answers.get())
    process.join()
    print(process.exitcode, told(lambda: len(client.list_batches().batches)))
"""


@pytest.mark.parametrize(
    ("method", "state", "told"),
    [
        ("fork", "unused", ["1", "0 1"]),
        ("fork", "others closed unused", ["1", "0 1"]),
        ("fork", "used", ["ForkedProcess", "0 1"]),
        ("fork", "streaming", ["ForkedProcess", "ForkedProcess", "0 1"]),
        ("spawn", "used", ["1", "0 1"]),
        ("forkserver", "used", ["1", "0 1"]),
    ],
)
async def test_worker_processes(server: ServerProcess, tmp_path: Path, method: str, state: str, told: Any) -> None:
    """A client works in a process forked before its first call or spawned; otherwise it says so, and never hangs.

    The parent's client works on in any case.
    """
    with SyncClickstreamClient(server.address) as client:
        client.register_session(Session(session_id="s"))
    program = tmp_path / "program.py"
    program.write_text(PROCESSES)
    code, output, errors = await run_python(str(program), server.address, method, state)

    assert (0, told) == (code, output.splitlines()), errors


async def test_a_forked_process_is_told_by_the_asynchronous_client(server: ServerProcess, tmp_path: Path) -> None:
    """ClickstreamClient, too, raises ForkedProcess in the child of a process that has used one."""
    program = tmp_path / "program.py"
    program.write_text("""
import asyncio, os, sys
from clickstream import ClickstreamClient, ForkedProcess

async def call():
    async with ClickstreamClient(sys.argv[1]) as client:
        await client.list_batches()

asyncio.run(call())
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    asyncio.run(call())
except ForkedProcess:
    os._exit(7)
""")
    code, _, errors = await run_python(str(program), server.address)

    assert 7 == code, errors


async def test_a_copy_connects_by_itself(server: ServerProcess) -> None:
    """A client can be pickled; the copy has the same settings and a connection of its own."""
    with SyncClickstreamClient(server.address, deadline_s=3.0) as client:
        client.register_session(Session(session_id="s"))
        copy = pickle.loads(pickle.dumps(client))  # our own
    with copy:
        assert copy.get_session("s") is not None
    assert (client.target, client.settings) == (copy.target, copy.settings)
