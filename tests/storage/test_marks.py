"""Marking a session irrelevant is two steps in the database: what comes between them is not taken for the mark."""

from __future__ import annotations

from typing import Any

import pytest

from clickstream import Session, SessionNotFound
from clickstream_server.storage.mongo.dao import MongoClickstreamDao


class RegistersBetween:
    """The sessions, to which one is registered as soon as an update has found none."""

    def __init__(self, dao: MongoClickstreamDao) -> None:
        self._dao = dao
        self._sessions = dao._sessions

    async def update_one(self, *arguments: Any) -> Any:
        done = await self._sessions.update_one(*arguments)
        await self._dao.register_session(Session(session_id="s"))
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sessions, name)


async def test_a_session_that_comes_after_its_mark_is_not_told_as_marked(
    dao: MongoClickstreamDao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is registered just behind the update that found none was not marked, and the caller is told so."""
    with monkeypatch.context() as patched:
        patched.setattr(dao, "_sessions", RegistersBetween(dao))
        with pytest.raises(SessionNotFound):
            await dao.mark_session_irrelevant("s")

    assert (await dao.mark_session_irrelevant("s")).session.is_irrelevant
