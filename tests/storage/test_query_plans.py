"""How MongoDB runs what the RPCs ask: its profiler writes down the plan of every operation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import AsyncMongoClient

from clickstream import Session, SessionBatchStatus, SessionEvent
from clickstream.export import ExportFilter
from clickstream.transfer import EventBatch, ImportAtomicity, ImportChunk, ImportConfig, ImportItem, ImportMode
from clickstream_server.config import Settings
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from harness import opened_dao

T0 = datetime(2026, 1, 1, tzinfo=UTC)


async def listed(things: AsyncIterator[object]) -> list[object]:
    return [thing async for thing in things]


async def each(*things: object) -> AsyncIterator[object]:
    for thing in things:
        yield thing


def session(number: int) -> Session:
    return Session(session_id=f"s{number}", user_id=f"u{number % 3}", created_at=T0 + timedelta(seconds=number))


def event(number: int, text: str = "e") -> SessionEvent:
    return SessionEvent(session_id=f"s{number}", event_id=text, object_id="o", created_at=T0)


async def call_everything(dao: MongoClickstreamDao) -> None:
    """Every RPC, in every form that leads to a query of its own."""
    for number in range(20):
        await dao.register_session(session(number))
    await dao.push_events([event(number, text) for number in range(20) for text in ("a", "b", "c")])
    await dao.push_events([event(0, "a"), event(0, "new")])
    await dao.update_session(session(3).model_copy(update={"search_query": "other"}))
    await dao.mark_session_irrelevant("s4")
    for limit in (None, 0, 2):
        await dao.get_session("s1", events_limit=limit)
    batch = (await dao.list_batches()).batches[0]
    for limit in (None, 0, 2):
        await listed(dao.get_batch_pages(batch.batch_id, after_number=3, events_limit=limit, exclude_irrelevant=True))
    await dao.get_batch(batch.batch_id)
    await dao.release_batch("r1")
    await dao.release_batch("r1")
    await dao.update_batch_status(batch.batch_id, SessionBatchStatus.COLLECTING)
    await dao.release_batch("r2")
    await dao.register_session(session(100))
    first = await dao.list_batches(page_size=1)
    await dao.list_batches(page_size=1, page_token=first.next_page_token)
    statuses = [SessionBatchStatus.RELEASED, SessionBatchStatus.COLLECTING]
    first = await dao.list_batches(statuses=statuses, page_size=1)
    await dao.list_batches(statuses=statuses, page_size=1, page_token=first.next_page_token)
    await listed(dao.stream_events(each(EventBatch(1, [event(0, "streamed")]))))  # type: ignore[arg-type]
    for atomicity in ImportAtomicity:
        for mode in ImportMode:
            for dry_run in (True, False):
                config = ImportConfig(
                    import_id="i", atomicity=atomicity, mode=mode, dry_run=dry_run, max_failure_ratio=1.0
                )
                items = [ImportItem(session(number), [event(number, mode)]) for number in range(15, 25)]
                await listed(dao.import_sessions(config, each(ImportChunk(1, items))))  # type: ignore[arg-type]
    for chosen in (
        ExportFilter(),
        ExportFilter(batch_id=batch.batch_id),
        ExportFilter(user_id="u1", event_types=["click"]),
        ExportFilter(session_ids=["s1", "s2"]),
        ExportFilter(created_from=T0, created_to=T0 + timedelta(seconds=5), exclude_irrelevant=True),
    ):
        pages = await listed(dao.export_sessions(chosen, limit=2))
        await listed(dao.export_sessions(chosen, resume_token=pages[0].resume_token))  # type: ignore[attr-defined]


@pytest.fixture
async def operations(mongodb_uri: str, database: str) -> list[dict[str, object]]:
    """What the profiler wrote down of everything that the RPCs did to the three collections."""
    async with (
        AsyncMongoClient(mongodb_uri) as client,
        opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao,
    ):
        await client[database].create_collection("system.profile", capped=True, size=64 * 1024 * 1024)
        await client[database].command("profile", 2)
        await call_everything(dao)
        await client[database].command("profile", 0)
        names = [f"{database}.{name}" for name in ("sessions", "events", "batches")]
        return await client[database]["system.profile"].find({"ns": {"$in": names}}).to_list()


async def test_no_rpc_scans_a_collection_or_sorts_in_memory(operations: list[dict[str, object]]) -> None:
    """Every query, update and aggregation of every RPC goes through an index, which has the order that is asked for."""
    planned = [operation for operation in operations if "planSummary" in operation]
    wrong = [
        (operation["ns"], operation["planSummary"], operation["command"])
        for operation in planned
        if "COLLSCAN" in str(operation["planSummary"]) or operation.get("hasSortStage")
    ]

    assert len(planned) > 50
    assert [] == wrong


async def test_counting_events_reads_no_documents(operations: list[dict[str, object]]) -> None:
    """Counting the events of a page's sessions is answered from the index alone."""
    counts = [
        operation
        for operation in operations
        if str(operation["ns"]).endswith(".events") and "aggregate" in dict(operation["command"])  # type: ignore[call-overload]
    ]

    assert counts
    assert {0} == {operation["docsExamined"] for operation in counts}


async def test_an_export_of_one_user_reads_that_user_alone(operations: list[dict[str, object]]) -> None:
    """An export of a user looks at that user's sessions and, going on, at the one where it stopped."""
    finds = [
        operation
        for operation in operations
        if "user_id" in dict(operation["command"]).get("filter", {})  # type: ignore[call-overload]
    ]

    assert finds
    assert [] == [found for found in finds if found["docsExamined"] > found["nreturned"] + 1]  # type: ignore[operator]
