"""What is more than may be held at once, on every backend."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from decimal import Decimal
from typing import Any, get_args

import pytest

from clickstream import (
    ClickstreamDao,
    ClickstreamError,
    ImportItem,
    MessageTooLarge,
    Money,
    OutcomeCounts,
    Overloaded,
    Registration,
    Session,
    SessionEvent,
    TransferDao,
)
from clickstream.export import ExportFilter
from clickstream_server.config import Settings
from clickstream_server.storage.mongo.driver import DriverName
from clickstream_server.storage.mongo.numbering import SessionWrite
from clickstream_server.storage.mongo.registrar import Registrar
from harness import opened_dao
from importing import config, imported, item, session


async def test_a_session_with_too_many_events_is_refused(dao: ClickstreamDao) -> None:
    """A session whose events are more than may be held is MESSAGE_TOO_LARGE, and is read with a smaller limit."""
    await dao.register_session(session("s"))
    for start in range(0, 300, 100):
        events = [
            SessionEvent(session_id="s", event_id=f"{start + n:03}", object_id="o", meta={"text": "x" * 60_000})
            for n in range(100)
        ]
        assert 100 == (await dao.push_events(events)).inserted
    refused = []
    for limit in (None, 290):
        with pytest.raises(MessageTooLarge) as raised:
            await dao.get_session("s", events_limit=limit)
        refused.append(("'s'" in raised.value.message, "events_limit" in raised.value.message))
    found = await dao.get_session("s", events_limit=100)

    assert [(True, True)] * 2 == refused
    assert found is not None
    assert (100, 300) == (len(found.events), found.event_count)


async def test_totals_of_many_events_are_exact(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """The totals of a session with thousands of values are exact for each currency."""
    await dao.register_session(session("s"))
    values = {"EUR": "0.1", "USD": "1E+20", "JPY": "3"}
    events = [
        SessionEvent(
            session_id="s", event_id=f"{n}", event_type="buy", value=Money(currency_code=code, amount=Decimal(amount))
        )
        for n, (code, amount) in enumerate(list(values.items()) * 1_500)
    ]
    await dao.push_events(events)
    async with aclosing(transfer.export_sessions(ExportFilter(), events_limit=0)) as pages:
        (exported,) = [one async for page in pages for one in page.sessions]

    expected = {code: Decimal(amount) * 1_500 for code, amount in values.items()}
    assert expected == {total.currency_code: total.amount for total in exported.totals}


@pytest.mark.parametrize("driver", get_args(DriverName))
async def test_sessions_that_wait_are_bounded_by_bytes(
    mongodb_uri: str, database: str, driver: DriverName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many large sessions at once some are refused with OVERLOADED and a time to wait, and the others are stored."""
    monkeypatch.setattr(Registrar, "waiting_bytes_max", 2 * Registrar.group_bytes_max)
    query = "x" * 1_000_000
    large = [Session(session_id=f"s{number}", search_query=query) for number in range(60)]
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database, mongodb_driver=driver)) as dao:
        results = await asyncio.gather(*(dao.register_session(one) for one in large), return_exceptions=True)
    stored = sorted(one.session.session_number for one in results if isinstance(one, Registration))
    refused = [one for one in results if isinstance(one, ClickstreamError)]

    assert stored
    assert {Overloaded} == {type(one) for one in refused}
    assert all(one.retry_after_s for one in refused)
    assert list(range(1, 61 - len(refused))) == stored


@pytest.mark.parametrize(("waiting_max", "waiting_bytes_max"), [(100, 10**9), (10**9, 20_000)])
async def test_imports_wait_for_room(
    dao: ClickstreamDao,
    transfer: TransferDao,
    monkeypatch: pytest.MonkeyPatch,
    waiting_max: int,
    waiting_bytes_max: int,
) -> None:
    """Imports and registrations at once all go in, however little may wait: imports wait for room and leave some."""
    monkeypatch.setattr(Registrar, "waiting_max", waiting_max)
    monkeypatch.setattr(Registrar, "waiting_bytes_max", waiting_bytes_max)
    chunks = {name: [[item(f"{name}{chunk}-{n}", 0) for n in range(60)] for chunk in range(10)] for name in "abc"}
    importing = [asyncio.create_task(imported(transfer, config(), *chunks[name])) for name in chunks]
    for number in range(20):
        await dao.register_session(session(f"registered {number}"))
    summaries = [summary.sessions for _, summary in await asyncio.gather(*importing)]

    assert [OutcomeCounts(inserted=600)] * 3 == summaries


async def test_a_large_chunk_goes_in_among_many_calls(
    dao: ClickstreamDao, transfer: TransferDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of as many sessions as imports may have waiting does not wait for the moment at which no call waits."""
    monkeypatch.setattr(Registrar, "waiting_max", 100)
    monkeypatch.setattr(Registrar, "group_max", 5)
    importing = asyncio.create_task(imported(transfer, config(), [item(f"{n}", 0) for n in range(50)]))

    async def call(caller: int) -> int:
        for number in range(200):
            if importing.done():
                return number
            await dao.register_session(session(f"{caller}-{number}"))
        return 200

    called = await asyncio.gather(*(call(caller) for caller in range(20)))
    await importing

    assert max(called) < 200


async def test_imports_wait_as_long_as_others_get_numbers(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many imports come at once, and however long it takes until all had their turn, all go in."""
    work = Registrar.work

    async def slowly(self: Registrar, group: list[SessionWrite]) -> Any:
        await asyncio.sleep(0.1)
        return await work(self, group)

    monkeypatch.setattr(Registrar, "work", slowly)
    monkeypatch.setattr(Registrar, "waiting_max", 20)
    monkeypatch.setattr(Registrar, "group_max", 5)
    names = [f"{n}-" for n in range(60)]
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database, storage_timeout_s=3.0)) as dao:
        done = await asyncio.gather(
            *(imported(dao, config(), [item(f"{name}{n}", 0) for n in range(5)]) for name in names)
        )

    assert [OutcomeCounts(inserted=5)] * len(names) == [summary.sessions for _, summary in done]


async def test_a_chunk_larger_than_all_that_may_wait_goes_in(
    transfer: TransferDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that is larger than what may wait is let in alone."""
    monkeypatch.setattr(Registrar, "waiting_bytes_max", 1_000)
    chunks = [[ImportItem(session(f"{chunk}-{n}", "x" * 1_000)) for n in range(10)] for chunk in range(5)]
    progress, summary = await imported(transfer, config(), *chunks)

    assert OutcomeCounts(inserted=50) == summary.sessions
    assert [1, 2, 3, 4, 5] == [one.acked_sequence for one in progress]
