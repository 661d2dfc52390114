"""Batches through the interface, on every backend: get, list, release, change the status."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from clickstream import (
    BatchAlreadyCollecting,
    BatchNotFound,
    BatchStatusMismatch,
    ClickstreamDao,
    NoCollectingBatch,
    Session,
    SessionBatch,
    SessionBatchStatus,
)
from clickstream_server.config import Settings
from clickstream_server.storage.mongo.batches import BatchStore
from harness import opened_dao


async def collecting(dao: ClickstreamDao, session_id: str = "a") -> SessionBatch:
    """The collecting batch, with one new session more."""
    done = await dao.register_session(Session(session_id=session_id))
    batch = await dao.get_batch(done.session.batch_id)
    assert batch is not None
    return batch


async def released(dao: ClickstreamDao, *release_ids: str) -> list[SessionBatch]:
    """Batches released one after the other under these keys, each with one session."""
    batches = []
    for release_id in release_ids:
        await collecting(dao, f"session of {release_id}")
        batches.append((await dao.release_batch(release_id)).batch)
    return batches


# --- get ------------------------------------------------------------------------------------------------------------


async def test_a_new_batch_collects(dao: ClickstreamDao) -> None:
    """The batch that the first session makes is COLLECTING, has no release and was made now."""
    batch = await collecting(dao)

    assert (SessionBatchStatus.COLLECTING, 1, None, None) == (
        batch.status,
        batch.session_counter,
        batch.release_id,
        batch.released_at,
    )
    assert batch.created_at == batch.updated_at
    assert abs(datetime.now(UTC) - batch.created_at) < timedelta(minutes=1)


async def test_a_session_touches_its_batch(dao: ClickstreamDao) -> None:
    """A second session raises the counter and updated_at, and nothing else of the batch."""
    before = await collecting(dao, "a")
    after = await collecting(dao, "b")

    assert before.updated_at < after.updated_at
    assert before.model_copy(update={"session_counter": 2, "updated_at": after.updated_at}) == after


async def test_an_unknown_batch_reads_as_none(dao: ClickstreamDao) -> None:
    """Where there is no batch, get_batch returns None."""
    assert await dao.get_batch("nothing") is None


# --- list -----------------------------------------------------------------------------------------------------------


async def test_batches_are_listed_newest_first(dao: ClickstreamDao) -> None:
    """The list holds every batch, the newest first."""
    old = await released(dao, "r1", "r2")
    newest = await collecting(dao)
    listed = await dao.list_batches()

    assert (newest, old[1], old[0]) == listed.batches
    assert not listed.next_page_token


async def test_no_batches(dao: ClickstreamDao) -> None:
    """An empty store lists nothing."""
    listed = await dao.list_batches()

    assert ((), "") == (listed.batches, listed.next_page_token)


async def test_pages_hold_every_batch_once(dao: ClickstreamDao) -> None:
    """Page after page, whatever its size, every batch comes once and in order, and a full last page has no token."""
    expected = list(reversed(await released(dao, "r1", "r2", "r3", "r4")))
    for page_size in (1, 2, 3, 4, 5):
        pages = [await dao.list_batches(page_size=page_size)]
        while token := pages[-1].next_page_token:
            pages.append(await dao.list_batches(page_size=page_size, page_token=token))

        assert expected == [batch for page in pages for batch in page.batches]
        assert -(-4 // page_size) == len(pages)


async def test_batches_of_one_moment_come_once_each(dao: ClickstreamDao, mongodb_uri: str, database: str) -> None:
    """Page after page, batches that were made at the same moment come once each, too."""
    made = {batch.batch_id for batch in await released(dao, "r1", "r2", "r3")}
    async with AsyncMongoClient[Any](mongodb_uri) as mongo:
        await mongo[database].batches.update_many({}, {"$set": {"created_at": 1_700_000_000_000_000}})
    pages = [await dao.list_batches(page_size=1)]
    while token := pages[-1].next_page_token:
        pages.append(await dao.list_batches(page_size=1, page_token=token))

    assert sorted(made, reverse=True) == [batch.batch_id for page in pages for batch in page.batches]


async def test_a_new_batch_does_not_disturb_paging(dao: ClickstreamDao) -> None:
    """A batch that is made while someone pages neither repeats nor hides an older one."""
    old = await released(dao, "r1", "r2", "r3")
    first = await dao.list_batches(page_size=1)
    await collecting(dao)
    second = await dao.list_batches(page_size=5, page_token=first.next_page_token)

    assert (old[2], old[1], old[0]) == (*first.batches, *second.batches)


async def test_the_list_can_be_filtered_by_status(dao: ClickstreamDao) -> None:
    """Only batches with one of the statuses are listed, on every page."""
    first, second, third = await released(dao, "r1", "r2", "r3")
    await collecting(dao)
    tuned = await dao.update_batch_status(second.batch_id, SessionBatchStatus.FINE_TUNING)
    both = [SessionBatchStatus.RELEASED, SessionBatchStatus.FINE_TUNING]
    page = await dao.list_batches(statuses=both, page_size=2)
    rest = await dao.list_batches(statuses=both, page_size=2, page_token=page.next_page_token)

    assert (third, tuned) == page.batches
    assert (first,) == rest.batches
    assert (tuned,) == (await dao.list_batches(statuses=[SessionBatchStatus.FINE_TUNING])).batches
    assert () == (await dao.list_batches(statuses=[SessionBatchStatus.ARCHIVED])).batches


# --- release --------------------------------------------------------------------------------------------------------


async def test_a_release_seals_the_collecting_batch(dao: ClickstreamDao) -> None:
    """The collecting batch becomes RELEASED under the key, at this moment, and is otherwise as it was."""
    before = await collecting(dao)
    done = await dao.release_batch("r")
    changed = {
        "status": SessionBatchStatus.RELEASED,
        "release_id": "r",
        "released_at": done.batch.updated_at,
        "updated_at": done.batch.updated_at,
    }

    assert not done.already_released
    assert before.model_copy(update=changed) == done.batch
    assert before.updated_at < done.batch.updated_at
    assert done.batch == await dao.get_batch(before.batch_id)


async def test_after_a_release_a_new_batch_collects(dao: ClickstreamDao) -> None:
    """The next session after a release is number 1 of a new batch, and the released one stays as it was."""
    (sealed,) = await released(dao, "r")
    done = await dao.register_session(Session(session_id="next"))

    assert sealed.batch_id != done.session.batch_id
    assert 1 == done.session.session_number
    assert sealed == await dao.get_batch(sealed.batch_id)


async def test_a_known_key_returns_its_batch(dao: ClickstreamDao) -> None:
    """A release key sent again returns the batch that it released, and leaves the one that collects now alone."""
    (sealed,) = await released(dao, "r")
    now = await collecting(dao)
    again = await dao.release_batch("r")

    assert (sealed, True) == (again.batch, again.already_released)
    assert now == await dao.get_batch(now.batch_id)


async def test_a_key_stays_known_through_later_statuses(dao: ClickstreamDao) -> None:
    """A release key returns its batch as it is now, whatever became of it since."""
    (sealed,) = await released(dao, "r")
    archived = await dao.update_batch_status(sealed.batch_id, SessionBatchStatus.ARCHIVED)
    again = await dao.release_batch("r")

    assert (archived, True) == (again.batch, again.already_released)
    assert ("r", sealed.released_at) == (archived.release_id, archived.released_at)


@pytest.mark.parametrize("before", [(), ("r1",)], ids=["empty store", "all released"])
async def test_nothing_to_release(dao: ClickstreamDao, before: tuple[str, ...]) -> None:
    """Where no batch collects, a new key raises NoCollectingBatch and stays unknown."""
    await released(dao, *before)
    for _ in range(2):
        with pytest.raises(NoCollectingBatch):
            await dao.release_batch("r2")
    batch = await collecting(dao)

    assert batch.batch_id == (await dao.release_batch("r2")).batch.batch_id


async def test_one_key_at_once_releases_once(dao: ClickstreamDao) -> None:
    """Of many releases under one key at the same time one does it and the others are told so, all of one batch."""
    batch = await collecting(dao)
    done = await asyncio.gather(*(dao.release_batch("r") for _ in range(10)))

    assert [False] + [True] * 9 == sorted(one.already_released for one in done)
    assert {batch.batch_id} == {one.batch.batch_id for one in done}


async def test_a_key_that_was_overtaken_releases_nothing_more(
    mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release whose key released a batch a moment before leaves alone the one that collects since."""
    look = BatchStore._released_under
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
        first = await collecting(dao, "a")

        async def overtaken(store: BatchStore, release_id: str) -> SessionBatch | None:
            found = await look(store, release_id)
            monkeypatch.setattr(BatchStore, "_released_under", look)
            await dao.release_batch(release_id)
            await collecting(dao, "b")
            return found

        monkeypatch.setattr(BatchStore, "_released_under", overtaken)
        done = await dao.release_batch("r")
        left = await collecting(dao, "c")

    assert (first.batch_id, True) == (done.batch.batch_id, done.already_released)
    assert (SessionBatchStatus.COLLECTING, 2) == (left.status, left.session_counter)


async def test_two_keys_at_once_release_one_batch_once(dao: ClickstreamDao) -> None:
    """Of two releases under different keys at the same time one gets the batch; the other finds none to release."""
    batch = await collecting(dao)
    done = await asyncio.gather(dao.release_batch("r1"), dao.release_batch("r2"), return_exceptions=True)
    won = [one for one in done if not isinstance(one, BaseException)]

    assert [batch.batch_id] == [one.batch.batch_id for one in won]
    assert [NoCollectingBatch] == [type(one) for one in done if isinstance(one, BaseException)]


# --- status ---------------------------------------------------------------------------------------------------------


async def test_every_status_can_be_set(dao: ClickstreamDao) -> None:
    """A batch takes every status, in either direction, and its updated_at moves with it."""
    (batch,) = await released(dao, "r")
    for status in [*SessionBatchStatus, *reversed(SessionBatchStatus)]:
        changed = await dao.update_batch_status(batch.batch_id, status)

        assert status is changed.status
        assert changed == await dao.get_batch(batch.batch_id)
        assert (batch.updated_at < changed.updated_at) is (batch.status is not changed.status)
        batch = changed


async def test_the_same_status_again_changes_nothing(dao: ClickstreamDao) -> None:
    """Setting the status that a batch has leaves all of it as it is, a release included."""
    (batch,) = await released(dao, "r")

    assert batch == await dao.update_batch_status(batch.batch_id, SessionBatchStatus.RELEASED)
    assert batch == await dao.get_batch(batch.batch_id)


async def test_a_status_that_is_not_released_seals_too(dao: ClickstreamDao) -> None:
    """A collecting batch that is set to another status takes no more sessions and has no release."""
    batch = await collecting(dao)
    sealed = await dao.update_batch_status(batch.batch_id, SessionBatchStatus.FINE_TUNING)
    done = await dao.register_session(Session(session_id="next"))

    assert (None, None) == (sealed.release_id, sealed.released_at)
    assert batch.batch_id != done.session.batch_id


async def test_reopening_clears_the_release(dao: ClickstreamDao) -> None:
    """A batch set back to COLLECTING has no release, and its key releases again, under whatever collects then."""
    (batch,) = await released(dao, "r")
    reopened = await dao.update_batch_status(batch.batch_id, SessionBatchStatus.COLLECTING)
    assert (None, None) == (reopened.release_id, reopened.released_at)
    again = await dao.release_batch("r")

    assert (batch.batch_id, False) == (again.batch.batch_id, again.already_released)


async def test_a_reopened_batch_goes_on_counting(dao: ClickstreamDao) -> None:
    """A new session in a reopened batch has the number after its last one."""
    (batch,) = await released(dao, "r")
    await dao.update_batch_status(batch.batch_id, SessionBatchStatus.COLLECTING)
    done = await dao.register_session(Session(session_id="next"))

    assert (batch.batch_id, 2) == (done.session.batch_id, done.session.session_number)


async def test_only_one_batch_collects(dao: ClickstreamDao) -> None:
    """A second collecting batch is refused with BatchAlreadyCollecting, and neither batch changes."""
    (old,) = await released(dao, "r")
    now = await collecting(dao)
    with pytest.raises(BatchAlreadyCollecting):
        await dao.update_batch_status(old.batch_id, SessionBatchStatus.COLLECTING)

    assert [now, old] == list((await dao.list_batches()).batches)


async def test_the_expected_status_must_be_the_batchs(dao: ClickstreamDao) -> None:
    """With another status than the expected one the call raises BatchStatusMismatch and changes nothing."""
    (batch,) = await released(dao, "r")
    for status in (SessionBatchStatus.ARCHIVED, SessionBatchStatus.RELEASED, SessionBatchStatus.COLLECTING):
        with pytest.raises(BatchStatusMismatch):
            await dao.update_batch_status(batch.batch_id, status, expected_status=SessionBatchStatus.COMPLETED)

    assert batch == await dao.get_batch(batch.batch_id)


async def test_as_expected_the_status_is_set(dao: ClickstreamDao) -> None:
    """With the expected status as it is, the call sets the new one, or changes nothing if that is the same."""
    (batch,) = await released(dao, "r")
    expected = SessionBatchStatus.RELEASED
    same = await dao.update_batch_status(batch.batch_id, expected, expected_status=expected)
    tuned = await dao.update_batch_status(batch.batch_id, SessionBatchStatus.FINE_TUNING, expected_status=expected)

    assert batch == same
    assert SessionBatchStatus.FINE_TUNING is tuned.status


async def test_of_two_who_expect_the_same_one_wins(dao: ClickstreamDao) -> None:
    """Of two jobs that claim a batch at the same time with the same expected status, one gets it."""
    (batch,) = await released(dao, "r")
    claims = (
        dao.update_batch_status(
            batch.batch_id, SessionBatchStatus.FINE_TUNING, expected_status=SessionBatchStatus.RELEASED
        )
        for _ in range(5)
    )
    done = await asyncio.gather(*claims, return_exceptions=True)

    assert [BatchStatusMismatch] * 4 == [type(one) for one in done if isinstance(one, BaseException)]


@pytest.mark.parametrize("expected", [None, SessionBatchStatus.RELEASED])
async def test_an_unknown_batch_has_no_status(dao: ClickstreamDao, expected: SessionBatchStatus | None) -> None:
    """Setting the status of an unknown batch raises BatchNotFound, names it and makes none."""
    with pytest.raises(BatchNotFound) as raised:
        await dao.update_batch_status("nothing", SessionBatchStatus.COLLECTING, expected_status=expected)

    assert "nothing" == raised.value.resource_name
    assert () == (await dao.list_batches()).batches
