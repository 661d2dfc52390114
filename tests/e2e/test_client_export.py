"""An export's trailer as a client counts it: the digest is as described, and what is not whole is noticed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc.aio
import pytest
from misbehaving import client_of

from clickstream import ClickstreamClient, ExportFilter, ImportItem, IncompleteExport
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.v1.transfer_service_pb2_grpc import (
    TransferServiceServicer,
    TransferServiceStub,
)
from harness import PATIENCE_S
from importing import NOON, config, event, imported, item, session


def digest_after(digest: bytes, found: pb.ExportedSession) -> bytes:
    """The recipe of the proto's comment, on the message itself."""
    one = found.session
    parts = [one.session.session_id, one.batch_id, str(one.session_number), str(one.event_count)]
    parts += [each.event_id for each in one.events]
    return hashlib.sha256(digest + b"".join(part.encode("utf-8") + b"\0" for part in parts)).digest()


@pytest.mark.parametrize("events_limit", [None, 0, 2])
async def test_the_digest_is_as_described(client: ClickstreamClient, events_limit: int | None) -> None:
    """The trailer's digest is what the proto's recipe gives over the messages that came."""
    wide = ImportItem(session("größe ✓"), [event("größe ✓", "ö")])
    await imported(client, config(), [*(item(f"s{number}", number % 4) for number in range(150)), wide])
    request = pb.ExportSessionsRequest(events_limit=events_limit)
    async with grpc.aio.insecure_channel(client.target) as channel:
        answers = [answer async for answer in TransferServiceStub(channel).ExportSessions(request, timeout=PATIENCE_S)]
    digest = bytes(32)
    for answer in answers:
        for found in answer.sessions:
            digest = digest_after(digest, found)

    assert digest == answers[-1].trailer.sha256
    assert all(answer.resume_token for answer in answers)


# --- an export that is not whole ------------------------------------------------------------------------------------


class Fake(TransferServiceServicer):
    """A server that sends these answers, whatever is asked."""

    def __init__(self, answers: Sequence[pb.ExportSessionsResponse]) -> None:
        self._answers = answers

    async def ExportSessions(  # noqa: N802
        self, request: pb.ExportSessionsRequest, context: Any
    ) -> AsyncIterator[pb.ExportSessionsResponse]:
        for answer in self._answers:
            yield answer


async def exported(client: ClickstreamClient, **options: Any) -> list[str]:
    """The ids of the sessions that come."""
    async with asyncio.timeout(PATIENCE_S), aclosing(client.export_sessions(ExportFilter(), **options)) as pages:
        return [one.session.session.session_id async for page in pages for one in page.sessions]


def answer(*names: str, trailer: pb.ExportTrailer | None = None) -> pb.ExportSessionsResponse:
    found = pb.ExportSessionsResponse(resume_token=f"after {names}", trailer=trailer)
    for name in names:
        one = found.sessions.add().session
        one.session.session_id = name
        one.batch_id = "b"
        one.session.created_at.FromDatetime(NOON)
        one.registered_at.FromDatetime(NOON)
    return found


def whole(*names: str) -> pb.ExportTrailer:
    digest = bytes(32)
    for found in answer(*names).sessions:
        digest = digest_after(digest, found)
    return pb.ExportTrailer(session_count=len(names), sha256=digest)


async def test_a_trailer_that_agrees_is_taken() -> None:
    """The client takes an export whose trailer agrees."""
    async with client_of(Fake([answer("a"), answer("b", trailer=whole("a", "b"))])) as client:
        assert ["a", "b"] == await exported(client)


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([answer("a"), answer("b", trailer=whole("a", "b", "c"))], id="missing"),
        pytest.param([answer("b"), answer("a", trailer=whole("a", "b"))], id="out of order"),
        pytest.param([answer("a"), answer("a", trailer=whole("a"))], id="doubled"),
        pytest.param(
            [answer("a", trailer=pb.ExportTrailer(session_count=1, event_count=1, sha256=whole("a").sha256))],
            id="events missing",
        ),
        pytest.param([answer("a"), answer("b")], id="no trailer"),
        pytest.param([], id="nothing at all"),
    ],
)
@pytest.mark.parametrize("limit", [0, 2])
async def test_an_export_that_is_not_whole_is_noticed(answers: list[pb.ExportSessionsResponse], limit: int) -> None:
    """An export that does not agree with its trailer, or ends without one, raises IncompleteExport."""
    async with client_of(Fake(answers)) as client:
        with pytest.raises(IncompleteExport):
            await exported(client, limit=limit)


async def test_a_resumed_export_without_a_trailer_is_noticed() -> None:
    """An export that was begun from a token and ends without a trailer raises IncompleteExport, too."""
    async with client_of(Fake([answer("a")])) as client:
        with pytest.raises(IncompleteExport):
            await exported(client, resume_token="any")
