"""Reads after an election. What real ones do is in tests/faults/test_failover.py."""

from __future__ import annotations

from clickstream_server.storage.mongo.dao import MongoClickstreamDao


async def test_what_was_read_before_the_new_primary_knew_all_is_read_again(dao: MongoClickstreamDao) -> None:
    """A read under way while another call learns that the new primary knows all is made again."""
    up_to_date = dao._up_to_date
    up_to_date._election = "the one before"
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        if reads == 1:
            await up_to_date.begin()  # the other call's
        return reads

    assert 2 == await up_to_date.read(read)
    assert 3 == await up_to_date.read(read)  # and once again all is known


async def test_a_snapshot_from_before_the_new_primary_knew_all_is_taken_again(dao: MongoClickstreamDao) -> None:
    """So is a snapshot: what is read in it later is of the same moment."""
    up_to_date = dao._up_to_date
    up_to_date._election = "the one before"
    sessions: list[object] = []

    async def first(session: object) -> int:
        sessions.append(session)
        if len(sessions) == 1:
            await up_to_date.begin()
        return len(sessions)

    async with up_to_date.snapshot(first) as (session, found):
        assert 2 == found
        assert session is sessions[1]
