"""The client's errors: those of the service arrive as the domain's, and what cannot be sent is told before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, nullcontext
from datetime import datetime
from decimal import Decimal
from typing import Any

import grpc
import pytest

from clickstream import (
    BatchAlreadyCollecting,
    BatchNotFound,
    BatchStatusMismatch,
    ClickstreamClient,
    EventBatch,
    ExportFilter,
    ImportChunk,
    ImportConfig,
    ImportItem,
    InvalidField,
    Money,
    NoCollectingBatch,
    SearchResultItem,
    Session,
    SessionBatchStatus,
    SessionEvent,
    SessionNotFound,
    SortBy,
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
COMPLETED = SessionBatchStatus.COMPLETED
SESSION = Session(session_id="s")
NO_ZONE = datetime(2026, 1, 5)  # noqa: DTZ001  # it is to be refused


async def _export(client: ClickstreamClient, **chosen: Any) -> None:
    await _drain(client.export_sessions(ExportFilter(**chosen)))


async def _import(client: ClickstreamClient, sequence: int = 1, session: Session = SESSION, **config: Any) -> None:
    async def chunks() -> AsyncIterator[ImportChunk]:
        yield ImportChunk(sequence, [ImportItem(session)])

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
        ("status", lambda client: client.update_batch_status("b", "DONE")),
        ("expected_status", lambda client: client.update_batch_status("b", COMPLETED, expected_status="DONE")),
        ("statuses[1]", lambda client: client.list_batches(statuses=[COMPLETED, "DONE"])),
        ("statuses[0]", lambda client: client.list_batches(statuses="COMPLETED")),
    ],
)
async def test_what_cannot_be_sent_is_invalid(client: ClickstreamClient, path: str, call: Call) -> None:
    """Text and numbers that the wire or the service cannot take raise InvalidField with the argument's name."""
    with pytest.raises(InvalidField) as raised:
        async with asyncio.timeout(PATIENCE_S):
            await call(client)

    assert [path] == [found for found, _ in raised.value.violations]


ROUNDED = {"n": [1, 2**53 + 1]}
RESULT = {"object_id": "o", "rank": None, "meta": ROUNDED}


def changed(**values: Any) -> Session:
    """A session that was changed past its model: `model_copy` validates nothing."""
    return Session(session_id="s").model_copy(update=values)


@pytest.mark.parametrize(
    ("path", "session"),
    [
        ("search_meta.n[1]", changed(search_meta=ROUNDED)),
        ("search_query.n[1]", changed(search_query=ROUNDED)),
        ("search_results[0].meta.n[1]", changed(search_results=[SearchResultItem.model_construct(**RESULT)])),
        ("search_meta.n", changed(search_meta={"n": object()})),
        ("session_id", changed(session_id=5)),
        ("session_id", changed(session_id=SURROGATE)),
        ("created_at", changed(created_at=NO_ZONE)),
        ("sort_by.order", changed(sort_by=SortBy.model_construct(order="UP"))),
        ("search_meta.n", changed(search_meta={"n": Decimal("0.12345678901234567890")})),
        ("payload_filter", changed(payload_filter="text")),
        ("search_results[0].rank", changed(search_results=[{"object_id": "o", "rank": "first"}])),
    ],
)
async def test_what_was_changed_past_its_model_is_invalid(
    client: ClickstreamClient, path: str, session: Session
) -> None:
    """A session that a copy or a change inside of it made invalid raises InvalidField: nothing of it is rounded."""
    for call in (client.register_session, client.update_session):
        with pytest.raises(InvalidField) as raised:
            await call(session)

        assert [f"session.{path}"] == [found for found, _ in raised.value.violations]
    with pytest.raises(InvalidField):
        await _import(client, import_id="i", session=session)


async def test_what_the_model_would_take_is_sent(client: ClickstreamClient) -> None:
    """What was put into a copy as it may be given to the model is stored as the model would have it."""
    results, sort_by = [{"object_id": "o"}], {"field": "price", "order": "DESC"}
    sent = Session(session_id="s", search_results=results, sort_by=sort_by)  # type: ignore[arg-type]  # Pydantic takes it
    await client.register_session(SESSION.model_copy(update={"search_results": results, "sort_by": sort_by}))
    found = await client.get_session("s")

    assert found is not None
    assert (sent.search_results, sent.sort_by) == (found.session.search_results, found.session.sort_by)


async def test_an_amount_that_is_a_float_is_invalid(client: ClickstreamClient) -> None:
    """A float that came to stand in an event as its amount raises InvalidField: it would be rounded to six digits."""
    value = Money(currency_code="EUR", amount="1").model_copy(update={"amount": 0.123456789})
    with pytest.raises(InvalidField) as raised:
        await client.push_events([SessionEvent(event_id="e", session_id="s", object_id="o", value=value)])

    assert ["events[0].value.amount"] == [found for found, _ in raised.value.violations]


async def test_an_event_that_was_changed_past_its_model_is_invalid(client: ClickstreamClient) -> None:
    """An event whose meta was given an integer that would be rounded raises InvalidField, however it is sent."""
    good = SessionEvent(event_id="e-1", session_id="s", object_id="o", meta={"n": 1})
    bad = good.model_copy(deep=True)
    bad.meta["n"] = 2**53 + 1

    async def batches() -> AsyncIterator[EventBatch]:
        yield EventBatch(1, [good, bad])

    for path, call in (
        ("events[1].meta.n", client.push_events([good, bad])),
        ("events[1].meta.n", _drain(client.stream_events(batches()))),
    ):
        with pytest.raises(InvalidField) as raised:
            await call

        assert [path] == [found for found, _ in raised.value.violations]
    async with client.event_stream() as stream:
        for event in (good, bad):
            with nullcontext() if event is good else pytest.raises(InvalidField, match="would be rounded"):
                await stream.send(event)

    assert 1 == stream.totals.inserted
