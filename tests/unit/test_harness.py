"""What the other tests run against."""

from __future__ import annotations

import asyncio
import sys

from harness import PATIENCE_S, ServerProcess

TALKS = "import sys; sys.stderr.write('x' * 2**20); sys.stderr.write('said'); sys.stderr.flush(); print('end')"
"""More than pipes and buffers hold."""


async def test_a_server_may_say_what_it_likes() -> None:
    """A server whose log nobody waits for does not stand still once a pipe is full, and all of it is kept."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TALKS), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    server = ServerProcess(process, "", [])
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert b"end\n" == await process.stdout.readline()
        await server.says("said")
    finally:
        await server.kill()

    assert "x" * 2**20 + "said" == server.errors
