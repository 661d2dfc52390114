"""Producers and consumers in other languages, on real servers that are lost in the middle."""

from __future__ import annotations

from polyglot.languages import Language
from polyglot.programs import Program

from clickstream import ClickstreamClient, Session
from harness import ServerProcess, eventually

SESSIONS = 1000
"""So many that a server is lost long before the last one is stored."""


async def produce_and_follow(
    producing: Language, reading: Language, mongodb_uri: str, database: str, *, kill: bool
) -> None:
    """A consumer follows while a producer stores sessions; the server is lost in between and comes back."""
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    server = await ServerProcess.start(**settings)
    async with ClickstreamClient(server.address) as client:
        await client.register_session(Session(session_id="the first", search_query="chair"))
    consumer = await start(reading, reading.consumer, server.address)
    await eventually_printed(consumer, 1)
    producer = await start(producing, producing.producer, server.address, sessions=SESSIONS, prefix="s")
    await eventually_printed(producer, SESSIONS // 10)

    await (server.kill() if kill else server.stop())
    assert len(producer.lines) < SESSIONS, "the server was to be lost in the middle"
    await ServerProcess.start(listen=server.address, **settings)

    assert (0, []) == (await producer.ended(), producer.errors)
    async with ClickstreamClient(server.address) as client:
        batch = (await client.release_batch("polyglot")).batch
        stored = [found async for found in client.get_batch_sessions(batch.batch_id)]
    assert 0 == await consumer.ended(), consumer.errors

    said = sorted(line.split(" as number ")[0] for line in producer.lines)
    assert sorted(f"stored s-{n}" for n in range(1, SESSIONS + 1)) == said
    assert {2} == {found.event_count for found in stored[1:]}
    expected = [f"{found.session_number} {found.session.session_id} {found.session.search_query}" for found in stored]
    assert list(range(1, SESSIONS + 2)) == [found.session_number for found in stored]
    assert [*expected, f"sealed after number {SESSIONS + 1}: {SESSIONS + 1} sessions, 0 missing"] == consumer.lines
    assert [] != [line for line in consumer.errors if line.startswith("the stream broke (")], "it was to be broken"


async def start(language: Language, program: tuple[str, ...], target: str, **flags: object) -> Program:
    return await Program.start(
        *program, *(f"--{name}={value}" for name, value in {"target": target, **flags}.items()), cwd=language.folder
    )


async def eventually_printed(program: Program, count: int) -> None:
    async def printed() -> bool:
        return len(program.lines) >= count

    await eventually(printed, f"{count} lines of {program.lines[-1:]} {program.errors}")


async def test_the_server_is_killed(language: Language, reader: Language, mongodb_uri: str, database: str) -> None:
    """`kill -9` of the server in the middle loses no session and repeats none, whoever writes and whoever reads."""
    await produce_and_follow(language, reader, mongodb_uri, database, kill=True)


async def test_the_server_is_stopped(language: Language, mongodb_uri: str, database: str) -> None:
    """A server that is stopped and started again, as in a rolling update, loses no session and repeats none."""
    await produce_and_follow(language, language, mongodb_uri, database, kill=False)
