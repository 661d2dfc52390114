"""Many calls at once over one connection, by a client that retries nothing."""

from __future__ import annotations

import asyncio

import grpc.aio

from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream.v1.clickstream_service_pb2_grpc import ClickstreamServiceStub
from harness import served


async def test_a_burst_of_calls_is_answered_without_retries(mongodb_uri: str, database: str) -> None:
    """3,000 registrations at once over one new connection all succeed, for a client that retries nothing, too.

    However long this machine takes for them: by default a burst may last a second.
    """
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with (
        served(mongodb_uri, database, queue_s_max=600) as client,
        grpc.aio.insecure_channel(client.target, options=options) as channel,
    ):
        stub = ClickstreamServiceStub(channel)
        requests = [
            pb.RegisterSessionRequest(session=session_pb2.Session(session_id=f"burst-{number}"))
            for number in range(3000)
        ]
        answers = await asyncio.gather(*(stub.RegisterSession(request) for request in requests))

    assert {f"burst-{number}" for number in range(3000)} == {answer.session.session.session_id for answer in answers}
