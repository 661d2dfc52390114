"""Workers that start: what keeps them from it is said once, and what they were started with counts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harness import ServerProcess, run_program, worker_pids


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


OTHER = "(CLICKSTREAM_LISTEN sets another)"
DIES_AT_ONCE = """
import os, sys
if "clickstream_server.workers.worker" in sys.orig_argv:
    os._exit(3)
"""


async def test_workers_that_die_at_once_are_given_up(mongodb_uri: str, database: str, tmp_path: Path) -> None:
    """If workers die again and again before they serve, the server says so in one line and ends with code 1."""
    (tmp_path / "sitecustomize.py").write_text(DIES_AT_ONCE)
    code, out, errors = await run_program(
        *("serve", "--workers=2", "--listen=127.0.0.1:0"),
        *(f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database}"),
        PYTHONPATH=str(tmp_path),
    )

    assert (1, "") == (code, out)
    assert "clickstream: worker " in errors.splitlines()[-1]
    assert "does not start, tried 5 times" in errors.splitlines()[-1]
    assert "ended with code 3" in errors.splitlines()[-1]


async def test_what_keeps_workers_from_serving_is_said_once(mongodb_uri: str, database: str) -> None:
    """What is wrong for all workers is one line, as it is without workers, and nobody tries again."""
    code, out, errors = await run_program(
        *("serve", "--workers=2", "--listen=127.0.0.1:0", "--mongodb-write-concern=nobody"),
        *(f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database}"),
    )

    assert (1, "") == (code, out)
    assert "clickstream: " in errors.splitlines()[-1]
    assert "CLICKSTREAM_MONGODB_WRITE_CONCERN" in errors.splitlines()[-1]
    assert "tried" not in errors


@pytest.mark.parametrize("holder", ["one that shares", "one that listens", "a server", "a server with workers"])
async def test_a_port_in_use_is_named(mongodb_uri: str, database: str, holder: str) -> None:
    """A port that another program has is in use, also if that one would share it."""
    arguments = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = None
    with socket.socket() as other:
        if holder.startswith("a server"):
            server = await ServerProcess.start(**arguments, workers=2 if "workers" in holder else 1)
            address = server.address
        else:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, "shares" in holder)
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"

        code, out, errors = await run_program(
            *("serve", f"--listen={address}", "--workers=2"),
            *(f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()),
        )

    assert (1, "", f"clickstream: cannot listen on {address}: the port is in use {OTHER}\n") == (code, out, errors)
    if server:
        assert 0 == await server.stop()


@pytest.mark.parametrize(
    ("listen", "why"),
    [("203.0.113.1:50051", "the address is not this machine's"), ("nowhere.invalid:0", "there is no such address")],
)
async def test_an_address_that_cannot_be_had_is_named(mongodb_uri: str, listen: str, why: str) -> None:
    """An address of another machine, or none, is refused in one line."""
    arguments = (f"--listen={listen}", "--workers=2", f"--mongodb-uri={mongodb_uri}")
    code, out, errors = await run_program("serve", *arguments, CLICKSTREAM_INSECURE="true")

    assert (1, "") == (code, out)
    assert errors.endswith(f"\nclickstream: cannot listen on {listen}: {why} {OTHER}\n")


async def test_the_port_for_health_is_shared_by_workers_alone(mongodb_uri: str, database: str) -> None:
    """All workers answer on the port for health, and no other server can have it as well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        health = f"127.0.0.1:{probe.getsockname()[1]}"
    arguments = {"mongodb_uri": mongodb_uri, "mongodb_database": database, "health_listen": health}
    server = await ServerProcess.start(workers=2, **arguments)
    code, out, _ = await run_program("ping", f"--target={health}")
    assert (0, f"{health} is SERVING\n") == (code, out)

    code, out, errors = await run_program(
        *("serve", "--workers=2", "--listen=127.0.0.1:0"),
        *(f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()),
    )
    other = "(CLICKSTREAM_HEALTH_LISTEN sets another)"
    assert (1, "", f"clickstream: cannot listen on {health}: the port is in use {other}\n") == (code, out, errors)
    assert 0 == await server.stop()


async def test_settings_reach_workers_unseen(mongodb_uri: str, database: str) -> None:
    """What a worker was started with does not show the settings, and they count: its log names the worker."""
    server = await ServerProcess.start(
        environment={"CLICKSTREAM_MONGODB_URI": mongodb_uri, "CLICKSTREAM_LOG_LEVEL": "info"},
        workers=2,
        mongodb_database=database,
    )
    for pid in worker_pids(server.pid).values():
        assert "mongodb://" not in command(pid)
    assert 0 == await server.stop()
    for number in (1, 2):
        assert f"INFO worker {number}: clickstream_server.health" in server.errors
