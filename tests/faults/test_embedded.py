"""`clickstream serve` with its embedded MongoDB: data that stay, processes that go, clear words if it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import ClickstreamClient, ClickstreamError, Session, StorageUnavailable
from clickstream_server import embedded
from clickstream_server.embedded import EmbeddedMongo, find_mongod
from harness import (
    PATIENCE_S,
    ServerProcess,
    ended,
    eventually,
    free_port,
    mongod_pid,
    run_program,
    runs,
    start_program,
)


async def register(server: ServerProcess, session_id: str) -> int:
    async with ClickstreamClient(server.address) as client:
        return (await client.register_session(Session(session_id=session_id))).session.session_number


async def failure(*arguments: str, **environment: str) -> str:
    """What a start that must fail says, having checked that it says it in one line and exits non-zero."""
    code, out, errors = await run_program("serve", *arguments, **{"CLICKSTREAM_LISTEN": "127.0.0.1:0"} | environment)
    lines = errors.splitlines()
    assert 1 == code, errors
    assert "" == out
    assert 1 == len(lines), errors
    assert lines[0].startswith("clickstream: ")
    return lines[0]


# --- data stay, processes go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_is_orderly_and_data_stay(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end the server with exit code 0 and its mongod with it, and the next start counts on."""
    server = await ServerProcess.start(data_dir=tmp_path)
    assert 1 == await register(server, "a")
    mongod = mongod_pid(tmp_path)
    server.signal(number)

    assert 0 == await server.exited()
    assert not runs(mongod)

    server = await ServerProcess.start(data_dir=tmp_path)
    assert 2 == await register(server, "b")
    assert 0 == await server.stop()


async def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    """`kill -9` of the server ends its mongod too, and the next start on the same folder has the data."""
    server = await ServerProcess.start(data_dir=tmp_path)
    assert 1 == await register(server, "a")
    mongod = mongod_pid(tmp_path)
    await server.kill()
    again = await ServerProcess.start(data_dir=tmp_path)  # at once: it waits for the folder by itself

    assert not runs(mongod)
    assert 2 == await register(again, "b")
    assert 0 == await again.stop()


async def test_a_killed_mongod_is_gone_with_its_server(tmp_path: Path) -> None:
    """After `kill -9` of the server and no new start, its mongod ends by itself."""
    server = await ServerProcess.start(data_dir=tmp_path)
    mongod = mongod_pid(tmp_path)
    await server.kill()

    async def gone() -> bool:
        return not runs(mongod)

    await eventually(gone, "mongod is gone")


async def test_another_port_keeps_the_data(tmp_path: Path) -> None:
    """If another mongod has taken the port that its mongod had, it takes another one and the data are there."""
    server = await ServerProcess.start(data_dir=tmp_path)
    assert 1 == await register(server, "a")
    assert 0 == await server.stop()
    port = (tmp_path / "port").read_text()
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    (other_dir / "port").write_text(port)
    other = EmbeddedMongo(other_dir)
    await other.start()
    try:
        assert port == (other_dir / "port").read_text()
        server = await ServerProcess.start(data_dir=tmp_path)
        assert port != (tmp_path / "port").read_text()
        assert 2 == await register(server, "b")
        assert 0 == await server.stop()
    finally:
        await other.stop()


async def test_others_on_the_machine_read_no_data(tmp_path: Path) -> None:
    """What holds data, mongod's log with its slow commands, too, is for its owner's eyes only."""
    mongo = EmbeddedMongo(tmp_path)
    await mongo.start()
    await mongo.stop()

    assert {"lock", "port"} == _open_to_others(tmp_path)


def _open_to_others(folder: Path) -> set[str]:
    """The names of the files that others than their owner may read or write."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077}


async def test_a_stop_while_starting_leaves_no_mongod(tmp_path: Path) -> None:
    """A server that is told to stop while its mongod starts ends, and its mongod with it."""
    process = await start_program("serve", "--listen=127.0.0.1:0", f"--data-dir={tmp_path}")

    async def started() -> int:
        lock = tmp_path / "db" / "mongod.lock"
        return int(lock.read_text() or 0) if lock.exists() else 0

    try:
        mongod = await eventually(started, "mongod has its folder")
        process.send_signal(signal.SIGTERM)
    finally:
        code, _, _ = await ended(process)

    async def gone() -> bool:
        return not runs(mongod)

    assert 0 == code
    await eventually(gone, "mongod is gone")


# --- what keeps it from starting ------------------------------------------------------------------------------------


async def test_a_data_folder_in_use_is_named(tmp_path: Path) -> None:
    """A second server on the same data folder says which process has it, and the first one serves on."""
    server = await ServerProcess.start(data_dir=tmp_path)

    said = await failure(f"--data-dir={tmp_path}")

    assert str(tmp_path) in said
    assert f"in use by process {server.pid}" in said
    assert 1 == await register(server, "a")
    assert 0 == await server.stop()


async def test_a_port_that_somebody_takes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program takes the port before mongod does, mongod is started at another one."""
    mongo = EmbeddedMongo(tmp_path)
    free = embedded._port_for
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = iter([other.getsockname()[1]])
        monkeypatch.setattr(embedded, "_port_for", lambda path: next(ports, None) or free(path))
        uri = await mongo.start()
        try:
            assert f":{other.getsockname()[1]}/" not in uri
            async with AsyncMongoClient[Any](uri) as client:
                assert (await client.admin.command("hello"))["isWritablePrimary"]
        finally:
            await mongo.stop()


async def test_a_port_in_use_is_named(mongodb_uri: str, database: str) -> None:
    """A port that another program has is named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        said = await failure(f"--listen={address}", f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database}")

    assert f"cannot listen on {address}" in said
    assert "in use" in said


async def test_a_port_in_use_leaves_no_mongod(tmp_path: Path) -> None:
    """A server that starts its mongod and then finds its port in use stops that mongod again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        await failure(f"--listen=127.0.0.1:{other.getsockname()[1]}", f"--data-dir={tmp_path}")

    assert "" == (tmp_path / "db" / "mongod.lock").read_text()  # as mongod leaves it when it ends in order


@pytest.mark.parametrize("inner", ["file", "file/inner"])
async def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path, inner: str) -> None:
    """A data folder at or below something that is a file is named."""
    (tmp_path / "file").touch()

    said = await failure(f"--data-dir={tmp_path / inner}")

    assert f"cannot use the data folder {tmp_path / inner}" in said


@pytest.mark.parametrize(
    "uri",
    [
        "localhost:27017",
        "http://localhost:27017",
        "mongodb://",
        "mongodb://user:p@ss@localhost",
        "mongodb://localhost:99999",
        "mongodb://localhost:port",
        "mongodb://[::1",
        "mongodb://localhost/?connectTimeoutMS=soon&tls=maybe",
        "mongodb://localhost/?directConnection=true&replicaSet=a&authMechanism=NOPE",
    ],
)
async def test_a_malformed_uri_is_said_to_be_one(uri: str) -> None:
    """A URI that is none, or has the wrong scheme or options, is refused by its setting's name."""
    assert "CLICKSTREAM_MONGODB_URI" in await failure(f"--mongodb-uri={uri}")


async def test_what_takes_two_lines_to_say_ends_workers_too() -> None:
    """A start that fails in its workers with a text of two lines fails, and says it in one."""
    uri = "mongodb://localhost/?readPreference=a%0Ab"
    code, out, errors = await run_program("serve", "--listen=127.0.0.1:0", f"--mongodb-uri={uri}", "--workers=2")

    assert (1, "") == (code, out)
    assert errors.endswith("clickstream: CLICKSTREAM_MONGODB_URI cannot be used: a b is not a valid read preference\n")


async def test_a_lone_server_is_refused(tmp_path: Path) -> None:
    """A mongod without replication is refused, and the message says what to do."""
    lone = EmbeddedMongo(tmp_path)
    await lone.start()
    await lone.stop()
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        str(find_mongod("")),
        *("--dbpath", str(tmp_path / "db"), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
        stdout=asyncio.subprocess.DEVNULL,
    )

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    try:
        await eventually(listens, "the lone mongod listens: else the server says first that it waits for it")
        said = await failure(f"--mongodb-uri=mongodb://127.0.0.1:{port}/")
    finally:
        process.terminate()
        await process.wait()

    assert "lone server without replication" in said
    assert "--replSet" in said


async def test_no_mongod_is_said_with_the_way_out(tmp_path: Path) -> None:
    """Without a mongod on PATH or in a wheel the message names the settings that help."""
    (tmp_path / "fiftyone.py").touch()  # hides the wheel, if there is one
    code, _, errors = await run_program(
        "serve", f"--data-dir={tmp_path / 'data'}", PATH="", PYTHONPATH=":".join([str(tmp_path), *sys.path])
    )

    assert 1 == code
    assert 1 == len(errors.splitlines())
    for name in ("no mongod found", "CLICKSTREAM_MONGOD", "CLICKSTREAM_MONGODB_URI"):
        assert name in errors


@pytest.mark.parametrize("content", [None, "not a program", "#!/bin/sh\nexit 7\n"])
async def test_a_mongod_that_does_not_run_is_named(tmp_path: Path, content: str | None) -> None:
    """CLICKSTREAM_MONGOD that does not exist, cannot be run or ends at once is one clear line."""
    program = tmp_path / "mongod"
    if content is not None:
        program.write_text(content)
        program.chmod(0o755)

    said = await failure(f"--data-dir={tmp_path / 'data'}", CLICKSTREAM_MONGOD=str(program))

    assert "CLICKSTREAM_MONGOD" in said
    assert str(program) in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN", "50051"),
        ("LISTEN", "127.0.0.1:99999"),
        ("STORAGE_TIMEOUT_S", "soon"),
        ("STORAGE_TIMEOUT_S", "0"),
        ("STORAGE_TIMEOUT_S", "nan"),
        ("DRAIN_S", "inf"),
        ("MONGODB_DRIVER", "pymongo3"),
        ("LOG_LEVEL", "loud"),
        ("META_BYTES_MAX", "-1"),
        ("MONGODB_DATABASE", "a.b"),
        ("MONGODB_DATABASE", "x" * 70),
    ],
)
async def test_a_bad_setting_is_named(mongodb_uri: str, name: str, value: str) -> None:
    """A setting that cannot be used is named as the variable and as the flag."""
    said = await failure(**{"CLICKSTREAM_MONGODB_URI": mongodb_uri, f"CLICKSTREAM_{name}": value})

    assert f"CLICKSTREAM_{name}" in said


async def test_a_misspelt_setting_is_pointed_out(mongodb_uri: str, database: str) -> None:
    """A CLICKSTREAM_ variable that is no setting is named on stderr, and the server serves."""
    server = await ServerProcess.start(
        mongodb_uri=mongodb_uri, mongodb_database=database, environment={"CLICKSTREAM_LISTN": "127.0.0.1:1"}
    )
    async with ClickstreamClient(server.address) as client:
        assert () == (await client.list_batches()).batches
    assert 0 == await server.stop()
    assert "CLICKSTREAM_LISTN is not a setting" in server.errors


async def test_a_mongod_that_dies_is_started_again(tmp_path: Path) -> None:
    """The embedded mongod is started again when it is killed, and what was stored is there."""
    server = await ServerProcess.start(data_dir=tmp_path)
    try:
        async with ClickstreamClient(server.address) as client:
            await client.register_session(Session(session_id="before"))
            os.kill(mongod_pid(tmp_path), signal.SIGKILL)

            async def found() -> object:
                try:
                    return await client.get_session("before")
                except ClickstreamError:
                    return None

            assert await eventually(found, "the database is back")
            assert 2 == (await client.register_session(Session(session_id="after"))).session.session_number
    finally:
        await server.stop()


async def test_a_data_folder_may_be_away_for_a_while(tmp_path: Path) -> None:
    """A mongod that dies while its data folder is gone is started again once it is back; the log says so."""
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    server = await ServerProcess.start(data_dir=folder)
    try:
        pid = mongod_pid(folder)
        folder.rename(elsewhere)
        os.kill(pid, signal.SIGKILL)
        await server.says(f"the data folder {folder} cannot be looked at")
        elsewhere.rename(folder)
        async with ClickstreamClient(server.address) as client:

            async def serves() -> bool:
                with suppress(ClickstreamError):
                    return bool(await client.register_session(Session(session_id="after")))
                return False

            await eventually(serves, "the database is back")
    finally:
        await server.stop()


class MissesACancel(EmbeddedMongo):
    """What watches mongod misses that it is cancelled, as PyMongo Async may before Python 3.12."""

    async def _start_again(self, program: Path) -> None:
        with suppress(asyncio.CancelledError):
            await super()._start_again(program)
        await super()._start_again(program)


async def test_a_stop_does_not_hang_on_a_cancel_that_was_missed(tmp_path: Path) -> None:
    """mongod is stopped also if what would start it again has missed that it should not."""
    mongo = MissesACancel(tmp_path)
    await mongo.start()
    await asyncio.sleep(0)  # it begins to watch
    pid = mongod_pid(tmp_path)

    async with asyncio.timeout(PATIENCE_S):
        await mongo.stop()
    assert not runs(pid)


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A folder on a file system of its own, which has so much room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to this file until there is no room left."""
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_full_disk_loses_nothing(tmp_path: Path, workers: int) -> None:
    """Without room on the disk calls are UNAVAILABLE, the log tells why, and with room again all is as acknowledged."""
    with small_disk(tmp_path / "disk", mib=450) as disk:
        server = await ServerProcess.start(data_dir=disk / "data", workers=workers)
        stored: list[str] = []
        async with ClickstreamClient(server.address) as client:

            async def registered() -> bool:
                session_id = f"s{len(stored)}"
                try:
                    await client.register_session(Session(session_id=session_id, search_query="x" * 200_000))
                except StorageUnavailable:
                    return False
                stored.append(session_id)
                return True

            assert await registered()
            fill(disk / "filler")

            async def refused() -> bool:
                return not await registered()

            await eventually(refused, "the disk is full", patience_s=3 * PATIENCE_S)
            (disk / "filler").unlink()
            await eventually(registered, "it takes calls again", patience_s=3 * PATIENCE_S)
            found = await asyncio.gather(*(client.get_session(session_id) for session_id in stored))
        assert 0 == await server.stop()

    assert list(range(1, len(stored) + 1)) == [session.session_number for session in found if session]
    assert "is full" in server.errors
