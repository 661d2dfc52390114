"""Sessions through the interface, on every backend."""

from __future__ import annotations

from clickstream import ClickstreamDao, Session, WriteOutcome


async def test_a_new_session_is_number_one(dao: ClickstreamDao) -> None:
    """The first session registered makes the collecting batch and gets number 1 in it."""
    done = await dao.register_session(Session(session_id="s", search_query="lamp"))

    assert WriteOutcome.INSERTED == done.outcome
    assert 1 == done.session.session_number
