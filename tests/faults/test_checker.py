"""The checker can fail: each kind of breach, put into a history that keeps the promises, is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from faults.checker import (
    CONFLICT,
    DUPLICATE,
    Asked,
    Event,
    History,
    Place,
    Reading,
    Release,
    Stored,
    StoredSession,
    Write,
    breaches,
)

CLICK = ("click", "o", 1)


def kept() -> tuple[History, Stored]:
    """Three sessions in batch b; c then moves to batch d, where e follows after b's release."""
    history = History(
        writes=[
            Write("a", "x", Place("b", 1), asked_at=1, answered_at=2),
            Write("a", "x", Place("b", 1), asked_at=1, answered_at=2, outcome=DUPLICATE),
            Write("b", "x", Place("b", 2), asked_at=1, answered_at=3),
            Write("b", "y", Place("b", 2), asked_at=2, answered_at=3, outcome=CONFLICT),
            Write("c", "x", Place("b", 3), asked_at=2, answered_at=3),
            Write("c", "new", Place("d", 1), asked_at=6, answered_at=7, update=True),
            Write("e", "x", Place("d", 2), asked_at=7, answered_at=8),
        ],
        events=[Event("a", "1", CLICK), Event("a", "1", CLICK), Event("a", "", ("click", "p", 2))],
        releases=[Release("r", "b", 3, False, answered_at=5), Release("r", "b", 3, True, answered_at=6)],
        readings=[Reading("one", "b", [(1, "a"), (2, "b")], 2), Reading("two", "b", [(1, "a"), (2, "b")], 3, True)],
    )
    stored = Stored(
        sessions=[
            StoredSession("a", "x", Place("b", 1)),
            StoredSession("b", "x", Place("b", 2)),
            StoredSession("c", "new", Place("d", 1)),
            StoredSession("e", "x", Place("d", 2)),
        ],
        events=[Event("a", "1", CLICK), Event("a", "f00", ("click", "p", 2))],
        counters={"b": 3, "d": 2},
    )
    return history, stored


def test_kept_promises_have_no_breach() -> None:
    """A history with duplicates, a conflict, a move and a release that was repeated breaks nothing."""
    assert [] == breaches(*kept())


def test_a_lost_session_is_found() -> None:
    """A session that was acknowledged and is not stored breaks promise 1."""
    history, stored = kept()
    del stored.sessions[1]

    assert any("1: session b" in breach and "0 times" in breach for breach in breaches(history, stored))


def test_a_lost_update_is_found() -> None:
    """A session that is stored with the content before its last update breaks promise 1."""
    history, stored = kept()
    stored.sessions[2] = replace(stored.sessions[2], content="x")

    assert ["1: session c should read 'new' and reads 'x'"] == breaches(history, stored)


def test_a_conflict_that_was_stored_is_found() -> None:
    """A session that is stored with the content that was refused as a conflict breaks promise 1."""
    history, stored = kept()
    stored.sessions[1] = replace(stored.sessions[1], content="y")

    assert ["1: session b should read 'x' and reads 'y'"] == breaches(history, stored)


def test_a_session_told_to_be_new_twice_is_found() -> None:
    """Two INSERTED answers for one session break promise 1."""
    history, stored = kept()
    history.writes.append(replace(history.writes[0], answered_at=4))

    assert ["1: session a was told to be new more than once"] == breaches(history, stored)


def test_a_lost_event_is_found() -> None:
    """An event that was acknowledged and is not stored breaks promise 1, with and without an id."""
    for place in range(2):
        history, stored = kept()
        del stored.events[place]

        assert 1 == len(breaches(history, stored))
        assert "stored 0 times" in breaches(history, stored)[0]


def test_an_event_stored_twice_is_found() -> None:
    """A retried event without an id that is stored under two ids breaks promise 1."""
    history, stored = kept()
    stored.events.append(replace(stored.events[1], event_id="f01"))

    assert any("stored 2 times" in breach for breach in breaches(history, stored))


def test_an_event_stored_with_other_content_is_found() -> None:
    """An event whose stored content is not what was sent breaks promise 1."""
    history, stored = kept()
    stored.events[0] = replace(stored.events[0], content=("click", "other", 1))

    assert any("stored 0 times" in breach for breach in breaches(history, stored))


def test_a_session_that_nobody_sent_is_found() -> None:
    """A stored session that nobody asked for, or not with this content, breaks promise 1."""
    for content in ("x", "y"):
        history, stored = kept()
        history.unanswered.append(Asked("f", "x"))
        stored.sessions.append(StoredSession("f", content, Place("d", 3)))
        stored.counters["d"] = 3

        expected = [] if content == "x" else ["1: session f with 'y' was sent by nobody"]
        assert expected == breaches(history, stored)


def test_an_import_that_was_lost_or_changed_is_found() -> None:
    """A session that an import acknowledged and that is not stored as it was sent breaks promise 1."""
    for content in ("x", "y"):
        history, stored = kept()
        history.imported.append(Asked("e", content))

        expected = [] if content == "x" else ["1: session e was imported and is stored 0 times"]
        assert expected == breaches(history, stored)


def test_an_event_that_was_not_acknowledged_is_stored_once_at_most() -> None:
    """An event that was sent and not acknowledged may be there or not; one that nobody sent breaks promise 1."""
    history, stored = kept()
    history.unanswered_events += [Event("a", "3", CLICK), Event("a", "4", CLICK)]
    stored.events.append(Event("a", "3", CLICK))
    assert [] == breaches(history, stored)

    stored.events.append(Event("a", "5", CLICK))

    assert ["1: 4 events are stored, and only 3 were sent"] == breaches(history, stored)


def test_a_gap_is_found() -> None:
    """A number below the counter that nobody ever held breaks promise 2."""
    history, stored = kept()
    stored.counters["d"] = 3

    assert ["2: batch d skipped [3], and 0 moves may have run twice"] == breaches(history, stored)


@pytest.mark.parametrize("broken", [{"kills": [5.5]}, {"outages": [(4.0, 5.5)]}, {"outages": [(5.5, 9.0)]}])
def test_a_gap_is_excused_by_a_move_that_a_fault_and_a_release_met_and_only_one(broken: dict[str, Any]) -> None:
    """An update that ended in the next batch may have left one number in the one before, but no second one."""
    history, stored = kept()
    history = replace(history, **broken)
    history.writes[5] = replace(history.writes[5], asked_at=4.5)  # while b was being released
    history.releases = [replace(release, counter=4) for release in history.releases]
    history.readings[1].last_number = stored.counters["b"] = 4
    assert [] == breaches(history, stored)

    history.releases = [replace(release, counter=5) for release in history.releases]
    history.readings[1].last_number = stored.counters["b"] = 5

    assert ["2: batch b skipped [4, 5], and 1 moves may have run twice"] == breaches(history, stored)


@pytest.mark.parametrize("batch_id", ["b", "d"])
def test_a_gap_is_not_excused_by_other_moves(batch_id: str) -> None:
    """A fault accounts for no number of a batch that an update went into, nor of one that was released before it."""
    history, stored = kept()
    history.outages.append((0.0, 9.0))  # with the move of c, from b into d, after b's release
    counter = stored.counters[batch_id] + 1
    stored.counters[batch_id] = counter
    if batch_id == "b":
        history.releases = [replace(release, counter=counter) for release in history.releases]
        history.readings[1].last_number = counter

    assert [f"2: batch {batch_id} skipped [{counter}], and 0 moves may have run twice"] == breaches(history, stored)


def test_a_doubled_number_is_found() -> None:
    """Two stored sessions under one number break promise 2."""
    history, stored = kept()
    history.unanswered.append(Asked("f", "x"))
    stored.sessions.append(StoredSession("f", "x", Place("d", 2)))

    assert ["2: Place(batch_id='d', number=2) was given to ['e', 'f']"] == breaches(history, stored)


def test_a_number_given_out_again_after_a_move_is_found() -> None:
    """A number that a session left behind and another session holds now breaks promise 2."""
    history, stored = kept()
    stored.sessions.append(StoredSession("f", "x", Place("b", 3)))

    assert any("was given to ['c', 'f']" in breach for breach in breaches(history, stored))


def test_a_number_beyond_the_counter_is_found() -> None:
    """A session numbered above its batch's counter breaks promise 2."""
    history, stored = kept()
    history.unanswered.append(Asked("f", "x"))
    stored.sessions.append(StoredSession("f", "x", Place("d", 5)))

    assert ["2: batch d counts to 2 and gave out [5]"] == breaches(history, stored)


def test_a_session_behind_a_reader_is_found() -> None:
    """A session below the last number that a reader got to, and that it never saw, breaks promise 3."""
    history, stored = kept()
    history.readings[0].seen = [(2, "b")]

    assert ["3: one in batch b passed 2 and never saw a under 1"] == breaches(history, stored)


def test_a_session_behind_the_last_number_is_found() -> None:
    """A reader that is told to resume after a number whose session it was not sent breaks promise 3."""
    history, stored = kept()
    history.readings[0].seen = [(1, "a")]

    assert ["3: one in batch b passed 2 and never saw b under 2"] == breaches(history, stored)


def test_numbers_out_of_order_are_found() -> None:
    """A reader that sees a number again or a lower one breaks promise 3."""
    for seen in ([(2, "b"), (1, "a")], [(1, "a"), (1, "a"), (2, "b")]):
        history, stored = kept()
        history.readings[0].seen = seen

        assert 1 == len(breaches(history, stored))
        assert "do not ascend" in breaches(history, stored)[0]


def test_an_early_seal_is_found() -> None:
    """A reader that is told that a batch is complete before its last number breaks promise 3."""
    history, stored = kept()
    history.readings[1].last_number = 2

    assert ["3: two in batch b was told that 2 completes it"] == breaches(history, stored)


def test_a_late_registration_is_found() -> None:
    """A registration that was asked for after the release was answered and lies in that batch breaks promise 4."""
    history, stored = kept()
    history.writes[4] = replace(history.writes[4], asked_at=5.5)

    assert {"4: session c was registered in batch b after its release"} == set(breaches(history, stored))


def test_a_counter_that_rises_after_the_release_is_found() -> None:
    """A counter that is not what the release told breaks promise 4."""
    history, stored = kept()
    stored.counters["b"] = 4
    history.unanswered.append(Asked("f", "x"))
    stored.sessions.append(StoredSession("f", "x", Place("b", 4)))
    history.readings.clear()

    assert {"4: batch b was released at 3 and counts to 4"} == set(breaches(history, stored))


def test_a_key_that_releases_two_batches_is_found() -> None:
    """One release key with two batches breaks promise 4."""
    history, stored = kept()
    history.releases[1] = replace(history.releases[1], batch_id="d", counter=2, answered_at=9)

    assert ["4: key r released more than one batch"] == breaches(history, stored)


def test_a_release_told_to_be_new_twice_is_found() -> None:
    """One release key whose release was told to be new twice breaks promise 4."""
    history, stored = kept()
    history.releases[1] = replace(history.releases[1], already_released=False)

    assert ["4: key r was told to be new more than once"] == breaches(history, stored)
