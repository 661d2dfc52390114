"""Tokens and TLS with several worker processes."""

from __future__ import annotations

import os
from pathlib import Path

from guarded import Guarded

from certificates import Authority
from clickstream import Tls, Unauthenticated
from clickstream_server.security.roles import Role
from harness import ServerProcess, eventually, run_program


async def test_every_worker_asks_for_tokens(
    mongodb_uri: str, database: str, tmp_path: Path, authority: Authority
) -> None:
    """With two workers behind TLS, a token is let in by both, and refused by both once it is revoked."""
    guarded = Guarded("", tmp_path / "tokens")
    token = guarded.add("consumer", Role.CONSUMER)
    pair = authority.pair()
    server = await ServerProcess.start(
        mongodb_uri=mongodb_uri,
        mongodb_database=database,
        workers=2,
        tls_cert=pair.cert,
        tls_key=pair.key,
        tokens_file=guarded.file,
    )
    guarded.address = server.address
    assert "needs: TLS and tokens (docs/security.md)" in server.output

    async def outcomes() -> set[str]:
        """What calls come to, each on a connection of its own: the kernel chooses the worker."""
        found = set()
        for number in range(16):
            options = [("grpc.use_local_subchannel_pool", 1), ("try", number)]
            async with guarded.client("consumer", tls=Tls(authority.ca)) as client:
                client.__dict__["_channel"] = client._access.channel(options)
                try:
                    await client.list_batches()
                    found.add("let in")
                except Unauthenticated as error:
                    found.add(error.reason)
        return found

    async def revoked() -> bool:
        return {"INVALID_CREDENTIALS"} == await outcomes()

    assert {"let in"} == await outcomes()
    guarded.revoke(token)
    await eventually(revoked, "both refuse the token")
    assert 0 == await server.stop()


async def test_files_that_cannot_be_used_keep_workers_from_starting(tmp_path: Path) -> None:
    """The supervisor says what is wrong in one line, before it starts anything."""
    code, out, errors = await run_program(
        "serve", "--workers=2", "--listen=127.0.0.1:0", f"--tokens-file={tmp_path / 'gone'}"
    )
    assert (1, "", 1) == (code, out, errors.count("\n"))
    assert "gone cannot be read" in errors
    code, _, errors = await run_program("serve", "--workers=2", "--listen=0.0.0.0:0")
    assert (1, 1) == (code, errors.count("\n"))
    assert "other machines can reach 0.0.0.0:0" in errors


async def test_a_pipe_is_no_tokens_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to is refused at the start, like all that is no file, and not waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, out, errors = await run_program("serve", "--listen=127.0.0.1:0", f"--tokens-file={pipe}")
    assert (1, "", 1) == (code, out, errors.count("\n"))
    assert "pipe cannot be used: it is not a file" in errors
