"""`python -m benchmarks.empty`: a server whose handlers do nothing: what remains is gRPC.

It has our server's options, event loop and generated code and takes calls from gRPC as ours does (with `one-by-one`: as
gRPC's server does by itself); it has neither interceptors nor conversions. It answers every call with one answer of the
same kind and size as ours, made beforehand. It prints its address, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc.aio

from benchmarks import workload
from clickstream import wire
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import clickstream_service_pb2_grpc as pb_grpc
from clickstream.v1 import outcome_pb2
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server import event_loop
from clickstream_server.accepting import Handlers, start
from clickstream_server.listening import server_options
from clickstream_server.process import use_memory_well

ONE_BY_ONE = "one-by-one"


class _Empty(pb_grpc.ClickstreamServiceServicer):
    def __init__(self) -> None:
        item = next(workload.items(1, seed=0))
        session, events = wire.session_to_pb(item.session), list(map(wire.event_to_pb, item.events))
        place = {"batch_id": "20260101T000000Z-00000000", "session_number": 1, "registered_at": session.created_at}
        self._registered = pb.RegisterSessionResponse(
            session={"session": session} | place,  # type: ignore[arg-type]
            outcome=outcome_pb2.WRITE_OUTCOME_INSERTED,
        )
        self._pushed = pb.PushEventsResponse(inserted=workload.EVENTS_PER_CALL)
        self._found = pb.GetSessionResponse(
            session={"session": session, "events": events, "event_count": len(events)} | place  # type: ignore[arg-type]
        )

    async def RegisterSession(self, _request: Any, _context: Any) -> pb.RegisterSessionResponse:  # noqa: N802
        return self._registered

    async def PushEvents(self, _request: Any, _context: Any) -> pb.PushEventsResponse:  # noqa: N802
        return self._pushed

    async def GetSession(self, _request: Any, _context: Any) -> pb.GetSessionResponse:  # noqa: N802
        return self._found


async def _serve() -> None:
    use_memory_well()
    handlers = Handlers()
    pb_grpc.add_ClickstreamServiceServicer_to_server(_Empty(), handlers)
    server = grpc.aio.server(handlers=handlers.all, options=server_options(message_bytes_max=MESSAGE_BYTES_MAX))
    port = server.add_insecure_port("127.0.0.1:0")
    await (server.start() if sys.argv[1:] == [ONE_BY_ONE] else start(server, handlers, ()))
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    event_loop.run(_serve())
