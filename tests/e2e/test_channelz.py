"""gRPC's account of its connections."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from clickstream import ClickstreamClient
from clickstream_server import app
from clickstream_server.config import Settings
from harness import served


async def test_channelz_shows_connections_and_calls(mongodb_uri: str, database: str) -> None:
    """From the servers of a process one comes to their connections, and to what each has carried."""
    settings = Settings(
        listen="127.0.0.1:0", mongodb_uri=mongodb_uri, mongodb_database=database, ui_listen="off", channelz=True
    )
    async with (
        app.running(settings) as running,
        ClickstreamClient(running.address) as client,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await client.list_batches()
        stub: Any = channelz_pb2_grpc.ChannelzStub(channel)
        port = f":{running.address.rpartition(':')[2]}"
        servers = (await stub.GetServers(channelz_pb2.GetServersRequest())).server
        ours = [server for server in servers if server.data.calls_started >= 1]
        sockets = [
            (await stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=found.socket_id))).socket
            for server in ours
            for found in (
                await stub.GetServerSockets(channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id))
            ).socket_ref
        ]

        assert port in {f":{socket.local.tcpip_address.port}" for socket in sockets}
        assert sum(socket.data.streams_started for socket in sockets) >= 2


async def test_without_the_setting_there_is_none(mongodb_uri: str, database: str) -> None:
    """By default nobody learns who is connected."""
    async with served(mongodb_uri, database) as client, grpc.aio.insecure_channel(client.target) as channel:
        stub: Any = channelz_pb2_grpc.ChannelzStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetServers(channelz_pb2.GetServersRequest())

    assert grpc.StatusCode.UNIMPLEMENTED == raised.value.code()
