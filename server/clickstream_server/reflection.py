"""Reflection under both of its names: tools ask for the newer one, the stock package knows the older one only."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_V1ALPHA
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from clickstream_server.accepting import Handlers

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server | Handlers, services: list[str]) -> None:
    """Let the server describe these services, health and reflection itself. The messages of both names are the same."""
    _describe_reflection_v1()
    names = [*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, REFLECTION_V1, REFLECTION_V1ALPHA]
    servicer: Any = reflection_aio.ReflectionServicer(service_names=names, pool=_Symbols())
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
            for name in (REFLECTION_V1, REFLECTION_V1ALPHA)
        )
    )


class _Symbols:
    """Protobuf's pool of descriptors. Written in C it does not find a file by a method, which reflection has to, as for
    `grpcurl describe clickstream.v1.ClickstreamService.GetBatch`.
    """

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802  # protobuf's name
        """The file that declares the symbol. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _describe_reflection_v1() -> None:
    """Make the newer name known by its descriptor, too: tools that describe all listed services fail without it."""
    described = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(described)
    renamed = text_format.MessageToString(described).replace("v1alpha", "v1")
    newer = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(newer.SerializeToString())
