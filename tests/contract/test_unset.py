"""What a request leaves unset, as clients in any language may: ours sends most of it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from pymongo import AsyncMongoClient

from clickstream import ClickstreamDao
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import event_pb2, outcome_pb2, session_pb2
from clickstream.v1 import transfer_service_pb2 as transfer_pb
from harness import PATIENCE_S

EVENTS = [event_pb2.SessionEvent(session_id="s", event_id=f"{number:03}", object_id="o") for number in range(101)]


async def registered(stub: Any, **fields: Any) -> Any:
    session = session_pb2.Session(**{"session_id": "s", **fields})
    return (await stub.RegisterSession(pb.RegisterSessionRequest(session=session))).session


async def answers_of(call: Any) -> tuple[list[Any], grpc.StatusCode]:
    """What came, and how the stream ended."""
    answers = []
    try:
        async for answer in call:
            answers.append(answer)
    except grpc.aio.AioRpcError as error:
        return answers, error.code()
    return answers, grpc.StatusCode.OK


async def imported(bulk: Any, config: dict[str, Any], *items: transfer_pb.ImportItem) -> tuple[Any, grpc.StatusCode]:
    """The summary of an import of these in one chunk, and how it ended."""
    requests = [
        transfer_pb.ImportSessionsRequest(config={"import_id": "i", **config}),
        transfer_pb.ImportSessionsRequest(chunk={"sequence": 1, "items": items}),
    ]
    answers, code = await answers_of(bulk.ImportSessions(iter(requests), timeout=PATIENCE_S))
    return answers[-1].summary, code


def item(session_id: str, *events: str, query: str = "") -> transfer_pb.ImportItem:
    """An item whose events are of these types; a click without an object is refused."""
    return transfer_pb.ImportItem(
        session={"session_id": session_id, "search_query": {"string_value": query}},
        events=[event_pb2.SessionEvent(event_id=kind, event_type=kind) for kind in events],
    )


async def test_get_session_gives_a_hundred_events(stub: Any) -> None:
    """Without `events_limit` a session comes with its first hundred events, and with 0 without any."""
    await registered(stub)
    await stub.PushEvents(pb.PushEventsRequest(events=EVENTS))
    unset = (await stub.GetSession(pb.GetSessionRequest(session_id="s"))).session
    none = (await stub.GetSession(pb.GetSessionRequest(session_id="s", events_limit=0))).session

    assert [(100, 101), (0, 101)] == [(len(found.events), found.event_count) for found in (unset, none)]
    assert [event.event_id for event in EVENTS[:100]] == [event.event_id for event in unset.events]


async def test_batches_and_exports_give_all_events(stub: Any, bulk: Any) -> None:
    """Without `events_limit` reading a batch and exporting give all events of a session, and with 0 none."""
    batch_id = (await registered(stub)).batch_id
    await stub.PushEvents(pb.PushEventsRequest(events=EVENTS))
    found = []
    for limit in ({}, {"events_limit": 0}):
        request = pb.GetBatchSessionsRequest(batch_id=batch_id, **limit)
        read, _ = await answers_of(stub.GetBatchSessions(request, timeout=PATIENCE_S))
        exported, _ = await answers_of(bulk.ExportSessions(transfer_pb.ExportSessionsRequest(**limit)))
        sessions = [one for answer in read for one in answer.sessions]
        sessions += [one.session for answer in exported for one in answer.sessions]
        found += [(len(one.events), one.event_count) for one in sessions]

    assert [(101, 101)] * 2 + [(0, 101)] * 2 == found


async def test_an_order_is_ascending(stub: Any) -> None:
    """A sort order that is not specified is ascending: so it is stored, compared and answered."""
    unset = {"sort_by": session_pb2.SortBy(field="price")}
    done = await registered(stub, **unset)
    ascending = session_pb2.Session(session_id="s", sort_by={"field": "price", "order": session_pb2.ORDER_ASC})
    again = await stub.RegisterSession(pb.RegisterSessionRequest(session=ascending))

    assert session_pb2.ORDER_ASC == done.session.sort_by.order
    assert "WRITE_OUTCOME_DUPLICATE" == outcome_pb2.WriteOutcome.Name(again.outcome)


async def test_an_object_without_fields_is_none(stub: Any) -> None:
    """An empty Struct comes back unset, and is the same content; an empty query is one."""
    empty = {"search_meta": {}, "payload_filter": {}, "search_results": [{"object_id": "o", "meta": {}}]}
    done = await registered(stub, search_query={"struct_value": {}}, **empty)
    unset = session_pb2.Session(
        session_id="s", search_query={"struct_value": {}}, search_results=[session_pb2.SearchResultItem(object_id="o")]
    )
    again = await stub.RegisterSession(pb.RegisterSessionRequest(session=unset))
    without_query = session_pb2.Session(session_id="s", search_results=unset.search_results)
    other = await stub.RegisterSession(pb.RegisterSessionRequest(session=without_query))

    unset.created_at.CopyFrom(done.session.created_at)
    assert [unset] * 2 == [done.session, again.session.session]
    outcomes = [outcome_pb2.WriteOutcome.Name(answer.outcome) for answer in (again, other)]
    assert ["WRITE_OUTCOME_DUPLICATE", "WRITE_OUTCOME_CONFLICT"] == outcomes


@pytest.mark.parametrize(("page_size", "expected"), [(0, 100), (1_000, 1_000), (1_001, 1_000), (2**31 - 1, 1_000)])
async def test_a_page_of_batches_is_bounded(
    dao: ClickstreamDao, mongodb_uri: str, database: str, page_size: int, expected: int
) -> None:
    """A page has a hundred batches unless told, and never more than a thousand; the token leads on from there."""
    stored = [
        {"_id": f"b{n}", "status": "RELEASED", "session_counter": 0, "created_at": n, "updated_at": n}
        for n in range(1_001)
    ]
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri) as mongo:
        await mongo[database].batches.insert_many(stored)
    first = await dao.list_batches(page_size=page_size)
    second = await dao.list_batches(page_size=1, page_token=first.next_page_token)

    assert [f"b{1_000 - n}" for n in range(expected + 1)] == [b.batch_id for b in (*first.batches, *second.batches)]


@pytest.mark.parametrize(("failing", "stops"), [(10, False), (11, True)])
async def test_an_import_stops_past_a_tenth(bulk: Any, failing: int, stops: bool) -> None:
    """Without `max_failure_ratio` an import goes on with a tenth of failures, and stops with more."""
    items = [item(f"s{number}", "click" if number < failing else "view") for number in range(100)]
    summary, code = await imported(bulk, {}, *items)

    assert (stops, failing) == (summary.aborted, summary.events.rejected)
    assert (grpc.StatusCode.ABORTED if stops else grpc.StatusCode.OK) == code


async def test_a_ratio_of_nothing_is_not_an_unset_one(bulk: Any) -> None:
    """With `max_failure_ratio` set to 0 the first failure among a hundred items stops an import."""
    items = [item(f"s{number}", "click" if number == 7 else "view") for number in range(100)]
    summary, code = await imported(bulk, {"max_failure_ratio": 0.0}, *items)

    assert (True, grpc.StatusCode.ABORTED) == (summary.aborted, code)


async def test_an_import_keeps_what_is_stored_and_takes_each_by_itself(stub: Any, bulk: Any) -> None:
    """Without `mode` and `atomicity` what is known stays, and a session is stored though one of its events is not."""
    await imported(bulk, {}, item("known", query="old"))
    summary, code = await imported(bulk, {}, item("known", query="new"), item("new", "click", "view"))
    known, new = [
        (await stub.GetSession(pb.GetSessionRequest(session_id=session_id))).session for session_id in ("known", "new")
    ]

    assert grpc.StatusCode.OK == code
    assert (1, 1) == (summary.sessions.conflicts, summary.sessions.inserted)
    assert (1, 1) == (summary.events.inserted, summary.events.rejected)
    assert "old" == known.session.search_query.string_value
    assert ["view"] == [event.event_id for event in new.events]
