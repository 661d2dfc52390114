"""Tokens that come and go while the server runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from guarded import Guarded
from pymongo import AsyncMongoClient

from certificates import Authority
from clickstream import (
    ClickstreamClient,
    ClickstreamError,
    ImportChunk,
    ImportConfig,
    ImportItem,
    InvalidCredentials,
    MethodNotAllowed,
    Session,
    SessionEvent,
    Tls,
    TokenFile,
)
from clickstream_server.security.roles import Role
from clickstream_server.security.tokens import added, key_id_of, new_token, read_lines
from harness import PATIENCE_S, ServerProcess, eventually, group_commit_runs


async def let_in(guarded: Guarded, token: str) -> bool:
    async with ClickstreamClient(guarded.address, token=token) as client:
        try:
            await client.list_batches()
        except InvalidCredentials:
            return False
    return True


def then(guarded: Guarded, token: str, *, wanted: bool) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return wanted is await let_in(guarded, token)

    return condition


def write_over(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def put_in_place(file: Path, content: bytes) -> None:
    new = file.with_name("new")
    new.write_bytes(content)
    new.replace(file)


def link_to_another_folder(file: Path, content: bytes) -> None:
    """As Kubernetes does: the file is a link through a link to a folder, and the latter is replaced."""
    folder = file.with_name("data-2")
    folder.mkdir()
    (folder / file.name).write_bytes(content)
    link = file.with_name("data-new")
    link.symlink_to(folder)
    link.replace(file.with_name("data"))


@pytest.mark.parametrize("way", [write_over, put_in_place, link_to_another_folder])
async def test_a_changed_file_counts_soon(guarded: Guarded, way: Callable[[Path, bytes], None]) -> None:
    """However the file is changed, new tokens are let in, and those that are gone are not."""
    if way is link_to_another_folder:
        first = guarded.file.with_name("data-1")
        first.mkdir()
        guarded.file.rename(first / guarded.file.name)
        guarded.file.with_name("data").symlink_to(first)
        guarded.file.symlink_to(guarded.file.with_name("data") / guarded.file.name)
    old = guarded.tokens["consumer"]
    token, line = new_token("new", [Role.CONSUMER])
    assert await let_in(guarded, old)

    way(guarded.file, added(b"", line))

    await eventually(then(guarded, token, wanted=True), "the new token counts")
    assert not await let_in(guarded, old)


async def test_an_emptied_file_lets_nobody_in(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """No tokens means nobody, and not everybody; the log warns."""
    guarded.file.write_bytes(b"")

    await eventually(then(guarded, guarded.tokens["admin"], wanted=False), "nobody is let in")
    assert any("nobody is let in" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("broken", [b"half a li", b"\xff", None])
async def test_a_broken_file_changes_nothing(
    guarded: Guarded, caplog: pytest.LogCaptureFixture, broken: bytes | None
) -> None:
    """A file that cannot be used, or is gone, leaves the tokens as they were, is said once, and can be mended."""
    before = guarded.file.read_bytes()
    if broken is None:
        guarded.file.unlink()
    else:
        guarded.file.write_bytes(broken)

    def errors() -> list[str]:
        ours = [record for record in caplog.records if record.name.startswith("clickstream_server")]
        return [record.getMessage() for record in ours if record.levelno == logging.ERROR]

    async def said() -> list[str]:
        return errors()

    await eventually(said, "the error is logged")
    assert await let_in(guarded, guarded.tokens["consumer"])
    token, line = new_token("new", [Role.CONSUMER])
    guarded.file.write_bytes(added(before, line))
    await eventually(then(guarded, token, wanted=True), "the mended file counts")
    assert await let_in(guarded, guarded.tokens["consumer"])
    assert 1 == len(errors())
    assert "the tokens from before still count" in errors()[0]


async def test_calls_go_on_while_the_file_is_replaced(guarded: Guarded) -> None:
    """No call fails because of changes of the file that do not concern its token."""
    done = asyncio.Event()

    async def call() -> int:
        calls = 0
        async with guarded.client("consumer") as client:
            while not done.is_set():
                await client.list_batches()
                calls += 1
        return calls

    calling = asyncio.create_task(call())
    last = ""
    for number in range(20):
        last = await asyncio.to_thread(guarded.add, f"other-{number}", Role.CONSUMER)
    await eventually(then(guarded, last, wanted=True), "the last token counts")
    done.set()

    assert 0 < await calling


def changed(guarded: Guarded, name: str, **changes: Any) -> None:
    """Replace the line of this token by one with these changes."""
    lines = read_lines(guarded.file.read_bytes())
    mine = key_id_of(guarded.tokens[name])
    content = b""
    for key_id, line in lines.items():
        content = added(content, replace(line, **changes) if key_id == mine else line)
    put_in_place(guarded.file, content)


CHANGES: list[tuple[Callable[[Guarded], None], type[ClickstreamError], str]] = [
    (lambda guarded: guarded.revoke(guarded.tokens["consumer"]), InvalidCredentials, "was revoked"),
    (lambda guarded: changed(guarded, "consumer", roles=frozenset({Role.PRODUCER})), MethodNotAllowed, "needs one of"),
    (
        lambda guarded: changed(guarded, "consumer", expires_at=datetime(2026, 1, 1, tzinfo=UTC)),
        InvalidCredentials,
        "has expired",
    ),
    (lambda guarded: changed(guarded, "consumer", digest=bytes(32)), InvalidCredentials, "was revoked"),
]


@pytest.mark.parametrize(
    ("change", "error", "words"), CHANGES, ids=["revoked", "other-roles", "expired", "other-token"]
)
async def test_a_stream_ends_when_its_token_counts_no_longer(
    guarded: Guarded, change: Callable[[Guarded], None], error: type[ClickstreamError], words: str
) -> None:
    """A stream that follows ends with the reason, and is not taken up again; that of somebody else goes on."""
    async with (
        guarded.client("producer") as producer,
        guarded.client("consumer") as client,
        guarded.client("admin") as other,
    ):
        await producer.register_session(Session(session_id="s-1"))
        async with (
            aclosing(client.get_batch_sessions("", follow=True)) as mine,
            aclosing(other.get_batch_sessions("", follow=True)) as others,
        ):
            assert "s-1" == (await anext(mine)).session.session_id
            assert "s-1" == (await anext(others)).session.session_id

            change(guarded)

            with pytest.raises(error, match=words):
                await asyncio.wait_for(anext(mine), PATIENCE_S)
            await producer.register_session(Session(session_id="s-2"))
            assert "s-2" == (await anext(others)).session.session_id


async def test_a_call_that_was_let_in_runs_to_its_end(guarded: Guarded, mongodb_uri: str, database: str) -> None:
    """A unary call that runs while its token is revoked is answered; the next one is refused."""
    async with (
        guarded.client("admin") as client,
        AsyncMongoClient[dict[str, Any]](mongodb_uri) as mongo,
        mongo.start_session() as holder,
    ):
        await client.register_session(Session(session_id="s-1"))
        await holder.start_transaction()
        await mongo[database].batches.update_one({}, {"$set": {"held": True}}, session=holder)
        running = asyncio.create_task(client.register_session(Session(session_id="s-2")))
        await eventually(group_commit_runs, "the registration is under way")
        guarded.revoke(guarded.tokens["admin"])
        await eventually(then(guarded, guarded.tokens["admin"], wanted=False), "the token counts no longer")
        assert not running.done()
        await holder.abort_transaction()

        assert 2 == (await running).session.session_number
        with pytest.raises(InvalidCredentials):
            await client.register_session(Session(session_id="s-3"))


async def test_a_producers_stream_ends_when_its_token_is_revoked(guarded: Guarded) -> None:
    """A stream of events ends with the reason at its producer, also while nothing is being sent."""
    async with guarded.client("producer") as client:
        with pytest.raises(InvalidCredentials):
            async with client.event_stream() as stream:
                await stream.send(SessionEvent(session_id="s", event_id="e", object_id="o"))
                await stream.flush()
                guarded.revoke(guarded.tokens["producer"])

                async def ended() -> bool:
                    await stream.send(SessionEvent(session_id="s", object_id="o", created_at=datetime.now(UTC)))
                    await stream.flush()
                    return False

                await eventually(ended, "the stream has ended")


@pytest.mark.parametrize("work", ["follow", "send", "import"])
async def test_a_replaced_token_ends_no_stream_of_a_client_that_has_the_new_one(
    guarded: Guarded, tmp_path: Path, work: str
) -> None:
    """Streams of a client with a TokenFile go on when the file has a new token and the old one is revoked."""
    role = Role.CONSUMER if work == "follow" else Role.ADMIN
    old, file = guarded.tokens[role], tmp_path / "mine.token"
    file.write_text(old)

    async def replaced() -> None:
        new = guarded.add(role, role)
        await eventually(then(guarded, new, wanted=True), "the new token counts")
        put_in_place(file, new.encode())
        guarded.revoke(old)
        await eventually(then(guarded, old, wanted=False), "the old token counts no longer")

    async with (
        asyncio.timeout(2 * PATIENCE_S),
        guarded.client("producer") as producer,
        ClickstreamClient(guarded.address, token=TokenFile(file)) as client,
    ):
        await producer.register_session(Session(session_id="s-1"))
        if work == "follow":
            async with aclosing(client.get_batch_sessions("", follow=True)) as sessions:
                assert "s-1" == (await anext(sessions)).session.session_id
                await replaced()
                await producer.register_session(Session(session_id="s-2"))
                assert "s-2" == (await anext(sessions)).session.session_id
        elif work == "send":
            async with client.event_stream() as stream:
                await stream.send(SessionEvent(session_id="s-1", event_id="a", object_id="o"))
                await stream.flush()
                await replaced()
                await stream.send(SessionEvent(session_id="s-1", event_id="b", object_id="o"))
                assert 2 == (await stream.flush()).inserted
        else:

            async def chunks() -> AsyncIterator[ImportChunk]:
                yield ImportChunk(1, [ImportItem(Session(session_id="i-1"))])
                await replaced()
                yield ImportChunk(2, [ImportItem(Session(session_id="i-2"))])

            answers = [answer async for answer in client.import_sessions(ImportConfig(import_id="i"), chunks())]
            assert [1, 2, 2] == [answer.processed for answer in answers]


async def test_a_token_that_stays_the_same_is_not_tried_for_ever(guarded: Guarded, tmp_path: Path) -> None:
    """A stream whose token was revoked, and is still what its file has, ends with the reason."""
    file = tmp_path / "mine.token"
    file.write_text(guarded.tokens["consumer"])
    async with (
        guarded.client("producer") as producer,
        ClickstreamClient(guarded.address, token=TokenFile(file)) as client,
    ):
        await producer.register_session(Session(session_id="s-1"))
        async with aclosing(client.get_batch_sessions("", follow=True)) as sessions:
            await anext(sessions)
            guarded.revoke(guarded.tokens["consumer"])
            with pytest.raises(InvalidCredentials):
                await asyncio.wait_for(anext(sessions), PATIENCE_S)


async def test_names_may_have_two_tokens_so_that_one_can_be_replaced(guarded: Guarded) -> None:
    """Between a new token and the end of the old one of the same name, both are let in."""
    old = guarded.tokens["consumer"]
    new = guarded.add("consumer", Role.CONSUMER)

    await eventually(then(guarded, new, wanted=True), "the new token counts")
    assert await let_in(guarded, old)
    guarded.revoke(old)
    await eventually(then(guarded, old, wanted=False), "the old token counts no longer")
    assert await let_in(guarded, new)


async def test_a_role_that_is_added_counts_without_a_new_token(guarded: Guarded) -> None:
    """An edited line gives its token other roles."""
    changed(guarded, "consumer", roles=frozenset({Role.CONSUMER, Role.PRODUCER}))

    async def registered() -> bool:
        async with guarded.client("consumer") as client:
            try:
                await client.register_session(Session(session_id="s"))
            except MethodNotAllowed:
                return False
        return True

    await eventually(registered, "the new role counts")


async def test_a_file_that_hangs_holds_up_no_other(
    mongodb_uri: str, database: str, authority: Authority, tmp_path: Path
) -> None:
    """While the certificate cannot be read to its end, as on a disk that hangs, tokens are revoked; a stop is one."""
    pair, file = authority.pair(), tmp_path / "tokens"
    token, line = new_token("shop", [Role.ADMIN])
    file.write_text(line.text())
    process = await ServerProcess.start(
        mongodb_uri=mongodb_uri, mongodb_database=database, tls_cert=pair.cert, tls_key=pair.key, tokens_file=file
    )
    async with ClickstreamClient(process.address, token=token, tls=Tls(authority.ca)) as client:
        await client.list_batches()
        pair.cert.unlink()
        os.mkfifo(pair.cert)
        with await eventually(lambda: _read_by_somebody(pair.cert), "the server reads the certificate"):
            file.write_text("# nobody")
            await eventually(lambda: _is_refused(client), "the token is refused")
            assert 0 == await process.stop()


async def _read_by_somebody(pipe: Path) -> BinaryIO | None:
    """The pipe's other end, once somebody reads it."""
    try:
        return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
    except OSError:
        return None


async def _is_refused(client: ClickstreamClient) -> bool:
    try:
        await client.list_batches()
    except InvalidCredentials:
        return True
    return False
