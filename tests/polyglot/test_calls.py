"""What the examples in other languages do about errors, repetitions and servers of another version."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from time import monotonic

from polyglot.languages import Language
from polyglot.proxy import proxy_to

from clickstream import ClickstreamClient, Session
from clickstream.errors import ClickstreamError, MessageTooLarge, Overloaded
from clickstream.v1 import clickstream_service_pb2 as pb

SESSIONS = 20
UNKNOWN_FIELD = b"\xc2\x3e\x03new"
"""Field 1000, a text, to stand behind a message's other fields."""


async def test_everything_is_sent_twice(language: Language, client: ClickstreamClient) -> None:
    """A producer that is run again stores nothing twice, and a consumer goes on after the number that it is given."""
    for _ in range(2):
        producer = await language.produce(client.target, sessions=SESSIONS, prefix="s")
        assert (0, SESSIONS) == (await producer.ended(), len(producer.lines)), producer.errors
    batch = (await client.release_batch("polyglot")).batch
    stored = [found async for found in client.get_batch_sessions(batch.batch_id)]

    consumer = await language.consume(client.target, batch=batch.batch_id, after=SESSIONS - 2)

    assert 0 == await consumer.ended(), consumer.errors
    assert [(n, 2) for n in range(1, SESSIONS + 1)] == [(found.session_number, found.event_count) for found in stored]
    last = [f"{found.session_number} {found.session.session_id} desk lamp" for found in stored[-2:]]
    assert [*last, f"sealed after number {SESSIONS}: 2 sessions, 0 missing"] == consumer.lines


async def test_a_session_has_moved_on(language: Language, client: ClickstreamClient) -> None:
    """A number whose session was moved to a later batch is told as missing."""
    for name in ("a", "b", "c"):
        await client.register_session(Session(session_id=name, search_query="x"))
    batch = (await client.release_batch("polyglot")).batch
    await client.update_session(Session(session_id="b", search_query="y"))

    consumer = await language.consume(client.target, batch=batch.batch_id)

    assert 0 == await consumer.ended(), consumer.errors
    assert ["1 a x", "3 c x", "sealed after number 3: 2 sessions, 1 missing"] == consumer.lines


async def test_the_batch_is_unknown(language: Language, client: ClickstreamClient) -> None:
    """A consumer of a batch that there is not ends at once, and says why."""
    consumer = await language.consume(client.target, batch="no such batch")

    assert 1 == await consumer.ended()
    assert [] == consumer.lines
    assert "no such batch" in "\n".join(consumer.errors)


async def test_the_content_is_another(language: Language, client: ClickstreamClient) -> None:
    """A producer whose id is taken by another content says so, and does not count it as stored."""
    await client.register_session(Session(session_id="s-1", search_query="another search"))

    producer = await language.produce(client.target, sessions=1, prefix="s")

    assert 1 == await producer.ended()
    assert [] == producer.lines
    assert "s-1 was not stored" in "\n".join(producer.errors)


async def test_the_server_is_overloaded(language: Language, client: ClickstreamClient) -> None:
    """A call that is refused as OVERLOADED is made again, not before RetryInfo says so."""
    arrivals: dict[bytes, list[float]] = defaultdict(list)
    pause_s = 0.5

    def refuse(method: str, request: bytes) -> ClickstreamError | None:
        times = arrivals[method.encode() + request]
        times.append(monotonic())
        return Overloaded("too much at once", retry_after_s=pause_s) if len(times) <= 2 else None

    async with proxy_to(client.target, refuse=refuse) as address:
        producer = await language.produce(address, sessions=8, prefix="s")
        assert 0 == await producer.ended(), producer.errors

    assert 8 == len(producer.lines)
    assert {3} == {len(times) for times in arrivals.values()}
    assert pause_s - 0.01 < min(b - a for times in arrivals.values() for a, b in pairwise(times))


async def test_the_message_is_too_large(language: Language, client: ClickstreamClient) -> None:
    """A call that is refused as MESSAGE_TOO_LARGE is not made again: RESOURCE_EXHAUSTED without RetryInfo is final."""
    arrivals: list[str] = []

    def refuse(method: str, request: bytes) -> ClickstreamError | None:
        arrivals.append(method)
        return MessageTooLarge("far too much at once")

    async with proxy_to(client.target, refuse=refuse) as address:
        producer = await language.produce(address, sessions=1, prefix="s")
        assert 1 == await producer.ended()

    assert ["RegisterSession"] == arrivals
    assert "far too much at once" in "\n".join(producer.errors)


async def test_the_server_is_newer(language: Language, client: ClickstreamClient) -> None:
    """Fields that a client does not know yet do not disturb it."""

    def with_more(method: str, answer: bytes) -> bytes:
        return answer + UNKNOWN_FIELD

    async with proxy_to(client.target, change=with_more) as address:
        producer = await language.produce(address, sessions=SESSIONS, prefix="s")
        assert 0 == await producer.ended(), producer.errors
        batch = (await client.release_batch("polyglot")).batch
        consumer = await language.consume(address, batch=batch.batch_id)
        assert 0 == await consumer.ended(), consumer.errors

    assert SESSIONS == len(producer.lines)
    assert f"sealed after number {SESSIONS}: {SESSIONS} sessions, 0 missing" == consumer.lines[-1]


async def test_the_outcome_is_unknown(language: Language, client: ClickstreamClient) -> None:
    """An outcome that a client does not know yet is not taken for a success."""

    def with_another(method: str, answer: bytes) -> bytes:
        return answer + pb.RegisterSessionResponse(outcome=77).SerializeToString()

    async with proxy_to(client.target, change=with_another) as address:
        producer = await language.produce(address, sessions=1, prefix="s")
        assert 1 == await producer.ended()

    assert [] == producer.lines
    assert "s-1 was not stored" in "\n".join(producer.errors)
