"""Producers and consumers in other languages, on real servers that are lost in the middle."""

from __future__ import annotations

from polyglot.languages import Language
from polyglot.programs import Program

from clickstream import ClickstreamClient, Session
from clickstream.models import SessionWithEvents
from harness import ServerProcess, served

SESSIONS = 500
"""So many that a server is lost long before the last one is stored."""


async def test_the_server_is_killed(
    language: Language, readers: list[Language], mongodb_uri: str, database: str
) -> None:
    """`kill -9` of the server in the middle loses no session and repeats none, whoever writes and whoever reads."""
    await _produce_and_follow(language, readers, mongodb_uri, database, kill=True)


async def test_the_server_is_stopped(language: Language, mongodb_uri: str, database: str) -> None:
    """A server that is stopped and started again, as in a rolling update, loses no session and repeats none."""
    await _produce_and_follow(language, [language], mongodb_uri, database, kill=False)


async def test_the_batch_is_released_meanwhile(language: Language, mongodb_uri: str, database: str) -> None:
    """A consumer that lost its server goes on with its batch, though another one collects by then."""
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    async with served(mongodb_uri, database) as client:
        await client.register_session(Session(session_id="a", search_query="x"))
        consumer = await language.consume(server.address)
        await consumer.has_printed(1)

        await server.kill()
        await client.register_session(Session(session_id="b", search_query="x"))
        await client.release_batch("polyglot")
        for session_id in ("c", "d", "e"):
            await client.register_session(Session(session_id=session_id))
    await ServerProcess.start(listen=server.address, **settings)

    assert 0 == await consumer.ended(), consumer.errors
    assert ["1 a x", "2 b x", "sealed after number 2: 2 sessions, 0 missing"] == consumer.lines


async def _produce_and_follow(
    language: Language, readers: list[Language], mongodb_uri: str, database: str, *, kill: bool
) -> None:
    """Consumers follow while a producer stores sessions; the server is lost in between and comes back."""
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="first", search_query="chair"))
    consumers = [await reader.consume(server.address) for reader in readers]
    for consumer in consumers:
        await consumer.has_printed(1)
    producer = await language.produce(server.address, sessions=SESSIONS, prefix="s")
    await producer.has_printed(SESSIONS // 10)

    await (server.kill() if kill else server.stop())
    assert len(producer.lines) < SESSIONS, "the server was to be lost in the middle"
    await ServerProcess.start(listen=server.address, **settings)

    assert (0, []) == (await producer.ended(), producer.errors)
    async with ClickstreamClient(server.address) as client:
        batch = (await client.release_batch("polyglot")).batch
        stored = [found async for found in client.get_batch_sessions(batch.batch_id)]
    _assert_that_all_is_stored(producer, stored)
    for consumer in consumers:
        assert 0 == await consumer.ended(), consumer.errors
        _assert_that_all_is_read(consumer, stored)


def _assert_that_all_is_stored(producer: Program, stored: list[SessionWithEvents]) -> None:
    ids = {f"s-{n}" for n in range(1, SESSIONS + 1)}
    said = [line.removeprefix("stored ").partition(" as number ")[0] for line in producer.lines]

    assert sorted(ids) == sorted(said)
    assert sorted({"first"} | ids) == sorted(found.session.session_id for found in stored)
    assert list(range(1, SESSIONS + 2)) == [found.session_number for found in stored]
    assert {2} == {found.event_count for found in stored if found.session.session_id != "first"}


def _assert_that_all_is_read(consumer: Program, stored: list[SessionWithEvents]) -> None:
    lines = [f"{found.session_number} {found.session.session_id} {found.session.search_query}" for found in stored]

    assert [*lines, f"sealed after number {len(stored)}: {len(stored)} sessions, 0 missing"] == consumer.lines
    assert any(line.startswith("the stream broke (") for line in consumer.errors), "it was to lose its server"
