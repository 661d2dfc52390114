"""Random operations through the in-memory model of the contract and through the real thing, side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pymongo import AsyncMongoClient

from clickstream import (
    ClickstreamDao,
    ClickstreamError,
    InvalidField,
    Money,
    SearchResultItem,
    Session,
    SessionBatchStatus,
    SessionEvent,
    SessionPage,
)
from clickstream_server.config import Settings
from clickstream_server.storage.mongo import indexes
from harness import opened_dao, served
from oracle import OracleDao

MORNING = datetime(2025, 6, 1, 8, tzinfo=UTC)
GIVEN_TIMES = {MORNING + timedelta(microseconds=place) for place in range(8)}

# --- operations: small spaces, so that ids meet again ---------------------------------------------------------------

SESSION_IDS = st.sampled_from(["a", "b", "c"])
KNOWN_OR_BAD_IDS = st.sampled_from([*["a", "b", "c"] * 4, " "])
RELEASE_IDS = st.sampled_from([*["r1", "r2"] * 5, ""])
STATUSES = st.sampled_from([*[SessionBatchStatus.COLLECTING] * 2, *SessionBatchStatus])
AFTER_NUMBERS = st.sampled_from([0, 0, 0, 1, 2, 3, 8, -1])
LIMITS = st.sampled_from([0, 0, 1, 1, 2, 3, -1])
EVENTS_LIMITS = st.sampled_from([None, None, 0, 1, 2, 2, 3, -1])
PLACES = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
"""Batches are named by the order in which they were first seen; past the last one stands an unknown batch."""

CONTENTS: list[dict[str, Any]] = [
    {},
    {"search_query": ""},
    {"search_query": "lamp", "created_at": MORNING},
    {"search_meta": {"x": 1}},
    {"search_meta": {"x": True}},
    {"search_meta": {"x": 1.0}, "is_irrelevant": True},
    {"search_results": (SearchResultItem(object_id="o", rank=0.5),), "created_at": MORNING},
]
EVENTS = st.builds(
    lambda place, fields: SessionEvent(
        created_at=None if place < 0 else MORNING + timedelta(microseconds=place), **fields
    ),
    st.integers(-1, 2),
    st.fixed_dictionaries(
        {
            "event_id": st.sampled_from(["e1", "e2"]),
            "session_id": KNOWN_OR_BAD_IDS,
            "object_id": st.sampled_from(["o", "o", "o", ""]),
            "event_type": st.sampled_from(["click", "view", "view"]),
            "value": st.sampled_from([None, None, None, Money(currency_code="EUR", amount="1.50")]),  # type: ignore[arg-type]
        }
    ),
)
EVENTS_WITHOUT_ID = st.builds(
    # A time of its own for each content: the order of events never hangs on an id that the server derived.
    lambda session_id, place: SessionEvent(
        session_id=session_id,
        event_type="view",
        created_at=None if place == 0 else MORNING + timedelta(microseconds=4 + place),
        meta={"place": place},
    ),
    SESSION_IDS,
    st.integers(0, 3),
)
SESSIONS = st.builds(
    lambda session_id, more: Session(session_id=session_id, **more), KNOWN_OR_BAD_IDS, st.sampled_from(CONTENTS)
)

OPERATIONS = st.one_of(
    st.tuples(st.just("register"), SESSIONS),
    st.tuples(st.just("register"), SESSIONS),
    st.tuples(st.just("register back"), SESSION_IDS),
    st.tuples(st.just("update"), SESSIONS),
    st.tuples(st.just("update back"), SESSION_IDS),
    st.tuples(st.just("push"), st.lists(st.one_of(EVENTS, EVENTS_WITHOUT_ID), max_size=6)),
    st.tuples(st.just("push back"), SESSION_IDS),
    st.tuples(st.just("mark"), KNOWN_OR_BAD_IDS),
    st.tuples(st.just("get"), KNOWN_OR_BAD_IDS, EVENTS_LIMITS),
    st.tuples(st.just("read"), PLACES, AFTER_NUMBERS, LIMITS, EVENTS_LIMITS, st.booleans(), st.booleans()),
    st.tuples(st.just("list"), st.lists(STATUSES, max_size=2), st.integers(-1, 3)),
    st.tuples(st.just("release"), RELEASE_IDS),
    st.tuples(st.just("release"), RELEASE_IDS),
    st.tuples(st.just("status"), PLACES, STATUSES, st.one_of(st.none(), STATUSES)),
)


class Side:
    """One of the two that are compared: it does operations, and tells what came of them without what is its own."""

    def __init__(self, dao: ClickstreamDao) -> None:
        self._dao = dao
        self._batch_ids: list[str] = []

    async def do(self, name: str, *arguments: Any) -> Any:
        """The operation's result or error, as plain values that the other side must have, too."""
        act: Callable[..., Awaitable[Any]] = getattr(self, f"_{name.replace(' ', '_')}")
        try:
            return self._plain(await act(*arguments))
        except InvalidField as error:
            paths = {violation.path.partition("[")[0] for violation in error.violations}
            return type(error).__name__, sorted(paths)
        except ClickstreamError as error:
            return type(error).__name__, self._plain({"batch_id": error.resource_name})

    async def _register(self, session: Session) -> Any:
        return await self._dao.register_session(session)

    async def _register_back(self, session_id: str) -> Any:
        found = await self._dao.get_session(session_id)
        return found and await self._dao.register_session(found.session)

    async def _update(self, session: Session) -> Any:
        return await self._dao.update_session(session)

    async def _update_back(self, session_id: str) -> Any:
        found = await self._dao.get_session(session_id)
        return found and await self._dao.update_session(found.session)

    async def _push(self, events: list[SessionEvent]) -> Any:
        return await self._dao.push_events(events)

    async def _push_back(self, session_id: str) -> Any:
        found = await self._dao.get_session(session_id)
        return found and await self._dao.push_events(found.events)

    async def _mark(self, session_id: str) -> Any:
        return await self._dao.mark_session_irrelevant(session_id)

    async def _get(self, session_id: str, events_limit: int | None) -> Any:
        return await self._dao.get_session(session_id, events_limit=events_limit)

    async def _read(self, place: int, after: int, limit: int, events_limit: int | None, *flags: bool) -> Any:
        batch_id = self._batch_id(place)
        exclude_irrelevant, follow = flags
        batch = await self._dao.get_batch(batch_id)
        pages = [
            page
            async for page in self._dao.get_batch_pages(
                batch_id,
                after_number=after,
                limit=limit,
                events_limit=events_limit,
                exclude_irrelevant=exclude_irrelevant,
                follow=follow and batch is not None and batch.sealed,
            )
        ]
        sessions = tuple(found for page in pages for found in page.sessions)
        return SessionPage(sessions=sessions, last_number=pages[-1].last_number, sealed=pages[-1].sealed)

    async def _list(self, statuses: list[SessionBatchStatus], page_size: int) -> Any:
        pages = [await self._dao.list_batches(statuses=statuses, page_size=page_size)]
        while token := pages[-1].next_page_token:
            pages.append(await self._dao.list_batches(statuses=statuses, page_size=page_size, page_token=token))
        return [page.batches for page in pages]

    async def _release(self, release_id: str) -> Any:
        return await self._dao.release_batch(release_id)

    async def _status(self, place: int, status: SessionBatchStatus, expected: SessionBatchStatus | None) -> Any:
        return await self._dao.update_batch_status(self._batch_id(place), status, expected_status=expected)

    def _batch_id(self, place: int) -> str:
        return self._batch_ids[place] if place < len(self._batch_ids) else "unknown"

    def _plain(self, value: Any) -> Any:
        """The value without what each side chooses for itself: ids of batches and events, the clock's times, texts."""
        if isinstance(value, BaseModel):
            return {"": type(value).__name__, **self._plain(dict(value))}
        if isinstance(value, dict):
            return {key: self._plain_field(key, item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        if isinstance(value, datetime):
            return value if value in GIVEN_TIMES else "the server's"
        return type(value).__name__, value

    def _plain_field(self, key: str, value: Any) -> Any:
        if key == "batch_id" and value and value != "unknown":
            if value not in self._batch_ids:
                self._batch_ids.append(value)
            return self._batch_ids.index(value)
        if key in {"event_id", "id"}:
            return value if len(value) <= 2 else "the server's"
        return None if key == "message" else self._plain(value)


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["motor", "client"])
async def real(request: pytest.FixtureRequest, mongodb_uri: str, database: str) -> AsyncIterator[ClickstreamDao]:
    if request.param == "client":
        async with served(mongodb_uri, database) as client:
            yield client
    else:
        async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
            yield dao


@pytest.fixture
async def emptied(mongodb_uri: str, database: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Empties the database: an example after the first starts as the first did, and need not make collections."""
    async with AsyncMongoClient(mongodb_uri) as client:

        async def empty() -> None:
            for name in indexes.INDEXES:
                await client[database][name].delete_many({})

        yield empty


@settings(max_examples=40, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, min_size=30, max_size=60))
async def test_the_real_thing_agrees_with_the_oracle(
    real: ClickstreamDao, emptied: Callable[[], Awaitable[None]], operations: list[tuple[Any, ...]]
) -> None:
    """Whatever is done in whatever order, results and errors are those of the contract's plain model."""
    await emptied()
    oracle_side, real_side = Side(OracleDao()), Side(real)

    for operation in operations:
        assert await oracle_side.do(*operation) == await real_side.do(*operation), operation
