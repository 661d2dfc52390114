"""docs/security.md: its lines are run as printed, and its table is that of the code."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from clickstream_server.security.roles import ROLES, Role
from doc_runner import ROOT, Block, Command, Walk, steps_of
from harness import PATIENCE_S

PAGE = ROOT / "docs" / "security.md"
SERVE = ".venv/bin/clickstream serve"


def test_the_table_of_roles_is_that_of_the_code() -> None:
    """The page names for each role exactly the methods that it may call."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?)(?:; sees the page)? \|$", PAGE.read_text(), re.MULTILINE))
    methods = {
        method.rpartition("/")[2]: roles for method, roles in ROLES.items() if method.startswith("/clickstream.")
    }

    assert set(Role) == set(rows)
    assert "everything" == rows.pop("admin")
    for role, listed in rows.items():
        assert {method for method, roles in methods.items() if role in roles} == set(re.findall(r"`(\w+)`", listed))


@asynccontextmanager
async def serving(walk: Walk, command: Command) -> AsyncIterator[None]:
    """What the line that serves runs, on a free port, with its data in this folder; it prints what stands below it."""
    process = await asyncio.create_subprocess_shell(
        f"exec {command.line} --listen=127.0.0.1:0 --ui-listen=off --data-dir=.data",
        cwd=walk.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            output = (await process.stdout.readuntil(b"stops it.\n")).decode()
        walk.target = output.partition("\n")[0].split()[-1]
        walk.names.actual["127.0.0.1:50051"] = walk.target
        shown = output.replace(f" --target {walk.target}", "").replace(f"{walk.folder}/", "")
        walk.check(command, shown.replace("/)\n", ")\n"))
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await process.communicate()


async def test_the_lines_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    """Every command of the page, run as printed and in order, prints what stands below it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    walk = Walk(tmp_path, PAGE)
    steps: list[Command | Block] = list(steps_of(walk.text))
    place = next(at for at, step in enumerate(steps) if isinstance(step, Command) and step.line.startswith(SERVE))
    first, serve, others = steps[:place], steps[place], steps[place + 1 :]
    assert isinstance(serve, Command)
    missing = shutil.which("grpcurl", path=walk.path) is None
    await walk.follow(first, [])
    assert not is_authority(tmp_path / "server.pem"), "clients such as rustls take no authority for a server"
    async with serving(walk, serve):
        await walk.follow([step for step in others if not (missing and is_grpcurl(step))], [])
    assert any(map(is_grpcurl, others))
    if missing:
        pytest.skip("all lines agree but those of grpcurl, which is not there: make tools")


def is_authority(cert: Path) -> bool:
    loaded = x509.load_pem_x509_certificate(cert.read_bytes())
    return loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def is_grpcurl(step: Command | Block) -> bool:
    return isinstance(step, Command) and "grpcurl " in step.line
