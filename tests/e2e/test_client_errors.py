"""The client's errors: those of the service arrive as the domain's, and what cannot be sent is told before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

import grpc
import pytest

from clickstream import (
    BatchAlreadyCollecting,
    BatchNotFound,
    BatchStatusMismatch,
    ClickstreamClient,
    ExportFilter,
    ImportChunk,
    ImportConfig,
    ImportItem,
    InvalidField,
    NoCollectingBatch,
    Session,
    SessionBatchStatus,
    SessionNotFound,
)
from harness import PATIENCE_S

Call = Callable[[ClickstreamClient], Awaitable[Any]]


async def _drain(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


async def _read(client: ClickstreamClient, batch_id: str, **options: Any) -> None:
    async with aclosing(client.get_batch_sessions(batch_id, **options)) as sessions:
        await _drain(sessions)


async def test_errors_are_the_domains(client: ClickstreamClient) -> None:
    """Each error arrives as the domain's class, with its code, reason and what it names."""
    with pytest.raises(NoCollectingBatch) as nothing:
        await client.release_batch("r")
    assert ("NO_COLLECTING_BATCH", grpc.StatusCode.NOT_FOUND) == (nothing.value.reason, nothing.value.code)
    first = (await client.register_session(Session(session_id="a"))).session.batch_id
    await client.release_batch("r")
    await client.register_session(Session(session_id="b"))
    for call, error, reason, name in (
        (client.update_session(Session(session_id="x")), SessionNotFound, "SESSION_NOT_FOUND", "x"),
        (client.mark_session_irrelevant("x"), SessionNotFound, "SESSION_NOT_FOUND", "x"),
        (_read(client, "x"), BatchNotFound, "BATCH_NOT_FOUND", "x"),
        (
            client.update_batch_status(first, SessionBatchStatus.COLLECTING),
            BatchAlreadyCollecting,
            "BATCH_ALREADY_COLLECTING",
            "",
        ),
        (
            client.update_batch_status(
                first, SessionBatchStatus.ARCHIVED, expected_status=SessionBatchStatus.COMPLETED
            ),
            BatchStatusMismatch,
            "BATCH_STATUS_MISMATCH",
            "",
        ),
    ):
        with pytest.raises(error) as raised:
            await call
        assert error is type(raised.value)
        assert (reason, name) == (raised.value.reason, raised.value.resource_name)
    assert await client.get_session("x") is None
    assert await client.get_batch("x") is None


async def test_violations_arrive(client: ClickstreamClient) -> None:
    """InvalidField from the server names each field and what is wrong with it."""
    with pytest.raises(InvalidField) as raised:
        await client.register_session(Session(session_id=" ", user_id="u" * 300))

    assert ["session.session_id", "session.user_id"] == [path for path, _ in raised.value.violations]
    assert all(description for _, description in raised.value.violations)


SURROGATE = "a\ud800b"
NO_ZONE = datetime(2026, 1, 5)  # noqa: DTZ001  # it is to be refused


async def _export(client: ClickstreamClient, **chosen: Any) -> None:
    await _drain(client.export_sessions(ExportFilter(**chosen)))


async def _import(client: ClickstreamClient, sequence: int = 1, **config: Any) -> None:
    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(sequence, [ImportItem(Session(session_id="s"))])

    await _drain(client.import_sessions(ImportConfig(**config), chunks()))


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("session_id", lambda client: client.get_session(SURROGATE)),
        ("session_id", lambda client: client.mark_session_irrelevant(SURROGATE)),
        ("batch_id", lambda client: client.get_batch(SURROGATE)),
        ("batch_id", lambda client: _read(client, SURROGATE)),
        ("batch_id", lambda client: client.update_batch_status(SURROGATE, SessionBatchStatus.COMPLETED)),
        ("release_id", lambda client: client.release_batch(SURROGATE)),
        ("page_token", lambda client: client.list_batches(page_token=SURROGATE)),
        ("events_limit", lambda client: client.get_session("s", events_limit=2**31)),
        ("events_limit", lambda client: client.get_session("s", events_limit=-(2**31) - 1)),
        ("after_number", lambda client: _read(client, "b", after_number=2**63)),
        ("limit", lambda client: _read(client, "b", limit=2**63)),
        ("events_limit", lambda client: _read(client, "b", events_limit=2**31)),
        ("page_size", lambda client: client.list_batches(page_size=2**31)),
        ("page_size", lambda client: client.list_batches(page_size=-1)),
        ("limit", lambda client: _read(client, "b", limit=-1)),
        ("after_number", lambda client: _read(client, "b", after_number=-1)),
        ("events_limit", lambda client: client.get_session("s", events_limit=-1)),
        ("filter.batch_id", lambda client: _export(client, batch_id=SURROGATE)),
        ("filter.user_id", lambda client: _export(client, user_id=SURROGATE)),
        ("filter.session_ids[1]", lambda client: _export(client, session_ids=["s", SURROGATE])),
        ("filter.event_types[0]", lambda client: _export(client, event_types=[SURROGATE])),
        ("filter.session_ids", lambda client: _export(client, session_ids="s-1")),
        ("filter.event_types", lambda client: _export(client, event_types="click")),
        ("filter.created_from", lambda client: _export(client, created_from=NO_ZONE)),
        ("filter.created_to", lambda client: _export(client, created_to=NO_ZONE)),
        ("config.import_id", lambda client: _import(client, import_id=SURROGATE)),
        ("config.mode", lambda client: _import(client, import_id="i", mode="OTHER")),
        ("config.max_failure_ratio", lambda client: _import(client, import_id="i", max_failure_ratio="half")),
        ("chunk.sequence", lambda client: _import(client, 2**63, import_id="i")),
    ],
)
async def test_what_cannot_be_sent_is_invalid(client: ClickstreamClient, path: str, call: Call) -> None:
    """Text and numbers that the wire or the service cannot take raise InvalidField with the argument's name."""
    with pytest.raises(InvalidField) as raised:
        async with asyncio.timeout(PATIENCE_S):
            await call(client)

    assert [path] == [found for found, _ in raised.value.violations]
