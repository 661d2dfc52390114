"""What belongs together is one moment of the database: a group's reads and writes, and the reads of a page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, get_args

import pytest
from commands import Commands

from clickstream import ExportFilter, ImportItem, ImportMode
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.driver import DriverName, close, connect
from importing import atomic, config, event, imported, item, session


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture(params=get_args(DriverName))
async def dao(
    request: pytest.FixtureRequest, mongodb_uri: str, database: str, commands: Commands
) -> AsyncIterator[MongoClickstreamDao]:
    client = connect(mongodb_uri, request.param, listeners=[commands])
    found = MongoClickstreamDao(client, database)
    await found.open()
    yield found
    await found.close()
    await close(client)


def taken(commands: Commands, database: str) -> list[dict[str, Any]]:
    """What was sent to this database since it was asked last."""
    sent, commands.sent = commands.sent, []
    return [one for one in sent if one["$db"] == database]


async def test_a_group_is_one_transaction(dao: MongoClickstreamDao, commands: Commands, database: str) -> None:
    """All that a group looks up and stores, be it new or known with other content, is in its transaction."""
    taken(commands, database)
    await imported(dao, atomic(), [item("a", 1), item("b", 1)])
    new = taken(commands, database)
    others = [ImportItem(session("a", "sofa"), [event("a", "0", "sofa"), event("a", "1")]), item("c", 1)]
    _, summary = await imported(dao, atomic(mode=ImportMode.REPLACE_EXISTING), others)
    replacing = taken(commands, database)

    assert (2, 3) == (summary.sessions.inserted, summary.events.inserted)
    assert ["findAndModify", "insert", "insert"] == [one["name"] for one in new]
    assert {"find", "findAndModify", "insert", "update"} == {one["name"] for one in replacing}
    for sent in (new, replacing):
        assert {False} == {one.get("autocommit") for one in sent}
        assert 1 == len({one["txnNumber"] for one in sent})
        assert "snapshot" == sent[0]["readConcern"]["level"]


@pytest.mark.parametrize("asked", [{"events_limit": None}, {"events_limit": 1}], ids=str)
async def test_a_page_is_one_snapshot(
    dao: MongoClickstreamDao, commands: Commands, database: str, asked: dict[str, Any]
) -> None:
    """All that a page of a batch or of an export is made of is read as it was at one moment."""
    await imported(dao, config(), [item(name, 3) for name in "abc"])
    (batch,) = (await dao.list_batches()).batches
    taken(commands, database)
    async with aclosing(dao.get_batch_pages(batch.batch_id, **asked)) as pages:
        assert [3] == [len(page.sessions) async for page in pages]
    of_batch = taken(commands, database)
    async with aclosing(dao.export_sessions(ExportFilter(), **asked)) as exported:
        assert [3] == [len(page.sessions) async for page in exported]
    of_export = taken(commands, database)

    for sent, collections in ((of_batch, {"batches", "sessions", "events"}), (of_export, {"sessions", "events"})):
        concerns = [one["readConcern"] for one in sent]
        assert collections == {one.get("find") or one["aggregate"] for one in sent}
        assert {"snapshot"} == {concern["level"] for concern in concerns}
        assert 1 == len({concern["atClusterTime"] for concern in concerns[1:]})  # that of the first
