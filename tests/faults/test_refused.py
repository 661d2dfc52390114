"""A MongoDB that does not let the server do what it must: at its start, and later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from clickstream import ClickstreamClient, Session, StorageUnavailable
from clickstream_server.embedded import _with_libcurl, die_with_parent, find_mongod
from harness import NOT_SERVING, SERVING, ServerProcess, eventually, free_port, run_program, until_health

DRIVERS = pytest.mark.parametrize("driver", ["motor", "pymongo"])
RIGHTS = [{"role": "readWrite", "db": "clickstream"}]


@dataclass
class Mongo:
    """A mongod that asks for a password, a replica set of one. Users: `root`, `writer`, `reader`; `pw` is theirs."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    def uri(self, user: str) -> str:
        return f"mongodb://{user}@127.0.0.1:{self.port}/?replicaSet=rs"

    @property
    def root(self) -> AsyncMongoClient[Any]:
        return AsyncMongoClient(self.uri("root:pw"))

    async def start(self) -> None:
        key = self.folder / "key"
        key.write_text("k" * 64)
        key.chmod(0o600)
        self.process = await asyncio.create_subprocess_exec(
            *(str(find_mongod("")), "--dbpath", str(self.folder), "--port", str(self.port), "--bind_ip", "127.0.0.1"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
            *("--replSet", "rs", "--keyFile", str(key), "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"),
            stdout=asyncio.subprocess.DEVNULL,
            env=_with_libcurl(self.folder),
            preexec_fn=die_with_parent(),
        )
        async with AsyncMongoClient[Any](f"mongodb://127.0.0.1:{self.port}/?directConnection=true") as mongo:

            async def leads() -> bool:
                members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
                with suppress(PyMongoError):  # it is one already, or is not up yet
                    await mongo.admin.command("replSetInitiate", {"_id": "rs", "members": members})
                try:
                    return bool((await mongo.admin.command("hello")).get("isWritablePrimary"))
                except PyMongoError:
                    return False

            await eventually(leads, "there is a primary")

    async def make_users(self) -> None:
        async with AsyncMongoClient[Any](f"mongodb://127.0.0.1:{self.port}/?directConnection=true") as mongo:
            await mongo.admin.command("createUser", "root", pwd="pw", roles=["root"])
        async with self.root as mongo:
            await mongo.admin.command("createUser", "writer", pwd="pw", roles=RIGHTS)
            await mongo.admin.command("createUser", "reader", pwd="pw", roles=[{"role": "read", "db": "clickstream"}])

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


@pytest.fixture
async def mongo(tmp_path: Path) -> AsyncIterator[Mongo]:
    found = Mongo(tmp_path)
    try:
        await found.start()
        await found.make_users()
        yield found
    finally:
        await found.stop()


async def starts(uri: str, *more: str) -> tuple[int, str]:
    """The exit code and the errors of a server that ends by itself."""
    code, _, errors = await run_program("serve", "--listen=127.0.0.1:0", f"--mongodb-uri={uri}", *more)
    return code, errors


async def test_why_it_cannot_start_is_said(mongo: Mongo) -> None:
    """Each start that MongoDB refuses ends with one line: what it said, and what to do about that."""
    nobody = await starts(f"mongodb://127.0.0.1:{mongo.port}/?replicaSet=rs")
    wrong = await starts(mongo.uri("writer:nonsense"))
    assert wrong == await starts(mongo.uri("writer:nonsense"), "--workers=2")
    reader = await starts(mongo.uri("reader:pw"))
    async with mongo.root as root:
        await root.clickstream.sessions.create_index("colour", name="by_time")
        foreign = await starts(mongo.uri("writer:pw"))
        await root.clickstream.sessions.insert_one({"_id": "sid", "expires": 1})
        filled = await starts(mongo.uri("writer:pw"))
        assert ["_id_", "by_time"] == sorted(await root.clickstream.sessions.index_information())

    assert [1] * 5 == [code for code, _ in (nobody, wrong, reader, foreign, filled)]
    assert [1] * 5 == [errors.count("\n") for _, errors in (nobody, wrong, reader, foreign, filled)], reader
    assert "(AuthenticationFailed:18): check user and password" in wrong[1]
    for _, errors in (nobody, reader):
        assert "Unauthorized:13; the URI needs a user with the role readWrite" in errors
    assert "IndexKeySpecsConflict:86; are there collections of another program?" in foreign[1]
    assert "readWrite" not in foreign[1]
    assert "holds another program's documents in sessions: give us a database of our own" in filled[1]


@DRIVERS
async def test_rights_that_are_taken_and_given_back(mongo: Mongo, driver: str) -> None:
    """Without its rights all calls are UNAVAILABLE, so that clients wait; the log says why, in a line for each call."""
    server = await ServerProcess.start(mongodb_uri=mongo.uri("writer:pw"), mongodb_driver=driver)
    async with ClickstreamClient(server.address, deadline_s=2) as client, mongo.root as root:
        await client.register_session(Session(session_id="s-1"))
        await root.admin.command("revokeRolesFromUser", "writer", roles=RIGHTS)
        for call in (client.register_session(Session(session_id="s-2")), client.list_batches()):
            with pytest.raises(StorageUnavailable):
                await call
        await server.says("RegisterSession code=UNAVAILABLE reason=STORAGE_UNAVAILABLE")
        await root.admin.command("grantRolesToUser", "writer", roles=RIGHTS)

        async def stores() -> bool:
            try:
                return (await client.register_session(Session(session_id="s-2"))).session.session_number == 2
            except StorageUnavailable:
                return False

        await eventually(stores, "it goes on without a restart")
    assert 0 == await server.stop()

    assert "Traceback" not in server.errors
    assert "internal error" not in server.errors
    refused = [line for line in server.errors.splitlines() if "STORAGE_UNAVAILABLE" in line]
    assert [] == [line for line in refused if not line.endswith(" cause=Unauthorized:13")]


@DRIVERS
async def test_a_password_that_was_changed(mongo: Mongo, driver: str) -> None:
    """Once MongoDB takes its password no more, the server does not serve, says so in a line, and waits for it."""
    server = await ServerProcess.start(mongodb_uri=mongo.uri("writer:pw"), mongodb_driver=driver)
    async with mongo.root as root:
        await root.admin.command("updateUser", "writer", pwd="other")
    await mongo.stop()
    await server.says("the database does not answer: ")
    await server.says("[Errno 111]")
    await mongo.start()
    await server.says("the database does not answer: AuthenticationFailed:18; ")
    await until_health(server.address, NOT_SERVING)
    async with mongo.root as root:
        await root.admin.command("updateUser", "writer", pwd="pw")
    await until_health(server.address, SERVING)
    await server.says("the database answers")
    assert 0 == await server.stop()

    assert "Traceback" not in server.errors
