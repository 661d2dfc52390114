"""GetBatchSessions on the wire: many sessions to a message, none too large, and an end when the client goes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from clickstream import ClickstreamClient, MessageTooLarge, Session, SessionEvent, SessionWithEvents
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import (
    ClickstreamServiceStub,
    add_ClickstreamServiceServicer_to_server,
)
from clickstream_server.interceptors import server_interceptors
from clickstream_server.interceptors.auth import Auth
from clickstream_server.interceptors.drain import Drain
from clickstream_server.message_dao import BatchQuery, MessagePage
from clickstream_server.security.gate import Gate
from clickstream_server.servicer import ClickstreamServicer
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import connect
from harness import PATIENCE_S, served

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
LARGE = [("grpc.max_receive_message_length", -1)]


async def fill(client: ClickstreamClient, count: int, **fields: Any) -> str:
    """Register so many sessions, some hundreds at a time; return their batch."""
    sessions = [Session(session_id=f"s{number}", **fields) for number in range(count)]
    for start in range(0, count, 300):
        done = await asyncio.gather(*map(client.register_session, sessions[start : start + 300]))
    return done[0].session.batch_id


@asynccontextmanager
async def stubbed(client: ClickstreamClient) -> AsyncIterator[ClickstreamServiceStub]:
    async with grpc.aio.insecure_channel(client.target, options=LARGE) as channel:
        yield ClickstreamServiceStub(channel)


async def test_many_sessions_travel_in_one_message(mongodb_uri: str, database: str) -> None:
    """A batch of 3,000 sessions comes in fewer than 50 messages, each number once and in order."""
    async with served(mongodb_uri, database) as client, stubbed(client) as stub:
        batch_id = await fill(client, 3000)
        answers = [answer async for answer in stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=batch_id))]

    assert list(range(1, 3001)) == [found.session_number for answer in answers for found in answer.sessions]
    assert len(answers) < 50
    assert [answer.sessions[-1].session_number for answer in answers if answer.sessions] == [
        answer.last_number for answer in answers if answer.sessions
    ]


async def test_no_message_is_larger_than_the_limit(mongodb_uri: str, database: str) -> None:
    """Sessions with large content and events are spread over messages of 8 MiB at most."""
    query = {"text": "x" * 900_000}
    meta = {"text": "y" * 60_000}
    async with served(mongodb_uri, database) as client, stubbed(client) as stub:
        batch_id = await fill(client, 24, search_query=query)
        events = [SessionEvent(session_id="s7", event_id=str(n), object_id="o", meta=meta) for n in range(100)]
        await client.push_events(events)
        answers = [answer async for answer in stub.GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=batch_id))]

    assert list(range(1, 25)) == [found.session_number for answer in answers for found in answer.sessions]
    assert max(answer.ByteSize() for answer in answers) <= MESSAGE_BYTES_MAX
    assert {0, 100} == {len(found.events) for answer in answers for found in answer.sessions}


async def test_a_session_larger_than_a_message_is_read_with_a_limit(mongodb_uri: str, database: str) -> None:
    """A session whose events exceed a message ends the stream with MESSAGE_TOO_LARGE; with events_limit it comes."""
    meta = {"text": "y" * 60_000}
    async with served(mongodb_uri, database) as client:
        for number in range(3):
            batch_id = (await client.register_session(Session(session_id=f"s{number}"))).session.batch_id
        for start in (0, 80):
            events = [
                SessionEvent(session_id="s1", event_id=f"{start + n:03}", object_id="o", meta=meta) for n in range(80)
            ]
            assert 80 == (await client.push_events(events)).inserted
        before: list[str] = []
        with pytest.raises(MessageTooLarge) as raised:
            await _gather_into(before, client.get_batch_sessions(batch_id))
        limited = [found async for found in client.get_batch_sessions(batch_id, events_limit=5)]
        with pytest.raises(MessageTooLarge):
            await client.get_session("s1", events_limit=None)

    assert "events_limit" in raised.value.message
    assert ["s0"] == before
    assert {"s0": (0, 0), "s1": (5, 160), "s2": (0, 0)} == {
        found.session.session_id: (len(found.events), found.event_count) for found in limited
    }


async def _gather_into(ids: list[str], sessions: AsyncIterator[SessionWithEvents]) -> None:
    async for found in sessions:
        ids.append(found.session.session_id)  # what came before an error counts


class WatchedDao(MongoClickstreamDao):
    """Tells when the first read of a batch began and ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pages_given = 0
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    async def get_batch_messages(self, query: BatchQuery) -> AsyncGenerator[MessagePage, None]:
        if self.began.is_set():
            async for page in super().get_batch_messages(query):
                yield page
            return
        self.began.set()
        try:
            async for page in super().get_batch_messages(query):
                self.pages_given += 1
                yield page
        finally:
            self.ended.set()


@asynccontextmanager
async def serving(dao: MongoClickstreamDao) -> AsyncIterator[str]:
    """The service over this DAO; its address."""
    drain = Drain()
    drain.admit()
    server = grpc.aio.server(interceptors=server_interceptors(drain, Auth(Gate(None))))
    add_ClickstreamServiceServicer_to_server(ClickstreamServicer(dao), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def watched_dao(mongodb_uri: str, database: str, count: int, chars: int) -> AsyncIterator[tuple[WatchedDao, str]]:
    """A DAO that holds so many sessions of this size, and their batch."""
    client = connect(mongodb_uri, "motor")
    dao = WatchedDao(client, database)
    await dao.open()
    for start in range(0, count, 200):
        await asyncio.gather(
            *(
                dao.register_session(Session(session_id=str(number), search_query="x" * chars))
                for number in range(start, min(start + 200, count))
            )
        )
    try:
        yield dao, (await dao.list_batches()).batches[0].batch_id
    finally:
        await dao.close()
        client.close()


READER = """
import sys, threading, grpc
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
address, batch_id, follow, deadline_s = sys.argv[1:]
request = pb.GetBatchSessionsRequest(batch_id=batch_id, follow=bool(follow))
channel = grpc.insecure_channel(address, options=[("grpc.http2.bdp_probe", 0)])
call = ClickstreamServiceStub(channel).GetBatchSessions(request, timeout=float(deadline_s))
print(next(call).sessions[0].session_number, flush=True)
if sys.stdin.readline() == "cancel\\n":
    call.cancel()
threading.Event().wait()
"""
"""A client that reads one answer and then no more. Its window stays small: gRPC would let it grow with the delays."""


@pytest.mark.parametrize("leave", ["cancels", "is killed", "has no time left"])
@pytest.mark.parametrize("follow", [True, False], ids=["following", "reading"])
async def test_a_stream_ends_when_its_client_goes(mongodb_uri: str, database: str, leave: str, follow) -> None:
    """The server stops reading when the client cancels, is killed or has no time left, following or not."""
    count = 10 if follow else 1200
    async with watched_dao(mongodb_uri, database, count, 20_000) as (dao, batch_id), serving(dao) as address:
        deadline_s = "2" if leave == "has no time left" else "100"
        arguments = (address, batch_id, "follow" if follow else "", deadline_s)
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", READER, *arguments), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert b"1\n" == await client.stdout.readline()
            assert not dao.ended.is_set()
            if leave == "cancels":
                client.stdin.write(b"cancel\n")
            elif leave == "is killed":
                client.kill()
            async with asyncio.timeout(PATIENCE_S):
                await dao.ended.wait()
        finally:
            if client.returncode is None:
                client.kill()
            await client.communicate()

    assert dao.pages_given <= (1 if follow else 2)  # of seven


async def test_a_slow_client_holds_the_reading_up(mongodb_uri: str, database: str) -> None:
    """While the client does not read on, the server does not either: memory stays bounded."""
    async with (
        watched_dao(mongodb_uri, database, count=1500, chars=30_000) as (dao, batch_id),
        serving(dao) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = ClickstreamServiceStub(channel).GetBatchSessions(pb.GetBatchSessionsRequest(batch_id=batch_id))
        await call.read()
        for _ in range(2):  # time enough to read all of it: without a bound it would be over by now
            async for _ in dao.get_batch_messages(BatchQuery(batch_id=batch_id)):
                pass
        assert not dao.ended.is_set()
        last_number = 0
        while (answer := await call.read()) is not grpc.aio.EOF:
            last_number = answer.last_number

    assert 1500 == last_number
