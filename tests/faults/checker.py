"""The checker of the four promises: plain functions over what happened and over what is stored.

Each function returns the breaches that it found, as sentences; an empty list means that the promise was kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from pymongo import AsyncMongoClient

INSERTED, DUPLICATE, CONFLICT = "INSERTED", "DUPLICATE", "CONFLICT"


class Place(NamedTuple):
    """A number in a batch."""

    batch_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Write:
    """A RegisterSession, or an UpdateSession (`update`), that was acknowledged, with what the answer said."""

    session_id: str
    content: str
    place: Place
    asked_at: float
    answered_at: float
    outcome: str = INSERTED
    update: bool = False


class Asked(NamedTuple):
    """A session as somebody wanted it stored."""

    session_id: str
    content: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it was sent and acknowledged (`event_id` empty: the server was to derive it), or as it is stored."""

    session_id: str
    event_id: str
    content: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """A ReleaseBatch that was answered."""

    release_id: str
    batch_id: str
    counter: int
    already_released: bool
    answered_at: float


@dataclass(slots=True)
class Reading:
    """What one reader saw of one batch, in order, from its beginning: numbers and the ids under them."""

    reader: str
    batch_id: str = ""
    seen: list[tuple[int, str]] = field(default_factory=list)
    last_number: int = 0
    sealed: bool = False


@dataclass(slots=True)
class History:
    """What happened, as those saw it who asked. An import's answers say nothing of places.

    `unanswered`: what was asked for once and not acknowledged; it may be stored or not. `kills`: when a server was
    killed. `outages`: from when to when something else was wrong.
    """

    writes: list[Write] = field(default_factory=list)
    imported: list[Asked] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    unanswered: list[Asked] = field(default_factory=list)
    unanswered_events: list[Event] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StoredSession:
    session_id: str
    content: str
    place: Place


@dataclass(slots=True)
class Stored:
    """What the database holds in the end. `counters`: each batch's session counter."""

    sessions: list[StoredSession]
    events: list[Event]
    counters: dict[str, int]


async def read_stored(mongodb_uri: str, database: str) -> Stored:
    """Read it straight from MongoDB, past everything that the service does."""
    async with AsyncMongoClient(mongodb_uri) as client:
        db = client[database]
        return Stored(
            sessions=[
                StoredSession(found["_id"], found["search_query"], Place(found["batch_id"], found["session_number"]))
                async for found in db.sessions.find()
            ],
            events=[
                Event(
                    found["_id"]["session_id"],
                    found["_id"]["event_id"],
                    (found["event_type"], found["object_id"], found["created_at"]),
                )
                async for found in db.events.find()
            ],
            counters={found["_id"]: found["session_counter"] async for found in db.batches.find()},
        )


def breaches(history: History, stored: Stored) -> list[str]:
    """Every breach of every promise."""
    return [
        *sessions_stored_once(history, stored),
        *imports_stored_once(history, stored),
        *nothing_else_stored(history, stored),
        *events_stored_once(history, stored),
        *numbers_without_gaps(history, stored),
        *nothing_behind_a_reader(history, stored),
        *released_means_sealed(history, stored),
    ]


@dataclass(frozen=True, slots=True)
class Account:
    """Sessions and events in figures. `lost`: acknowledged and not stored."""

    acknowledged: int
    found: int
    lost: int
    doubled: int
    unanswered: int
    unanswered_found: int


def account_of(history: History, stored: Stored) -> Account:
    """What became of every session and every event that has an id."""
    asked: set[tuple[str, ...]] = {(write.session_id,) for write in history.writes}
    asked |= {(session.session_id,) for session in history.imported}
    asked |= {(event.session_id, event.event_id) for event in history.events if event.event_id}
    unanswered: set[tuple[str, ...]] = {(session.session_id,) for session in history.unanswered}
    unanswered |= {(event.session_id, event.event_id) for event in history.unanswered_events}
    unanswered -= asked
    copies: Counter[tuple[str, ...]] = Counter((session.session_id,) for session in stored.sessions)
    copies.update((event.session_id, event.event_id) for event in stored.events)
    return Account(
        acknowledged=len(asked),
        found=sum(copies[key] > 0 for key in asked),
        lost=sum(copies[key] == 0 for key in asked),
        doubled=sum(copies[key] > 1 for key in asked | unanswered),
        unanswered=len(unanswered),
        unanswered_found=sum(copies[key] > 0 for key in unanswered),
    )


# --- promise 1: acknowledged means durable, once --------------------------------------------------------------------


def sessions_stored_once(history: History, stored: Stored) -> list[str]:
    """Every acknowledged session is there, once, with the content that was acknowledged last."""
    found = []
    by_id = _grouped((session.session_id, session) for session in stored.sessions)
    for session_id, writes in _grouped((write.session_id, write) for write in history.writes).items():
        copies = by_id.get(session_id, [])
        if len(copies) != 1:
            found.append(f"1: session {session_id} was acknowledged and is stored {len(copies)} times")
            continue
        expected = _content_in_the_end(writes)
        if expected != copies[0].content:
            found.append(f"1: session {session_id} should read {expected!r} and reads {copies[0].content!r}")
        if sum(write.outcome == INSERTED and not write.update for write in writes) > 1:
            found.append(f"1: session {session_id} was told to be new more than once")
    return found


def imports_stored_once(history: History, stored: Stored) -> list[str]:
    """Every session of an import that was acknowledged is there, once, as it was sent."""
    copies = Counter(Asked(session.session_id, session.content) for session in stored.sessions)
    return [
        f"1: session {asked.session_id} was imported and is stored {copies[asked]} times"
        for asked in sorted(set(history.imported))
        if copies[asked] != 1
    ]


def nothing_else_stored(history: History, stored: Stored) -> list[str]:
    """What was never acknowledged is there once, as it was sent, or not at all; and nobody invents sessions."""
    known = {write.session_id for write in history.writes} | {asked.session_id for asked in history.imported}
    found = []
    others = [session for session in stored.sessions if session.session_id not in known]
    copies = Counter(session.session_id for session in others)
    unanswered = set(history.unanswered)
    for session in others:
        if Asked(session.session_id, session.content) not in unanswered:
            found.append(f"1: session {session.session_id} with {session.content!r} was sent by nobody")
        elif copies[session.session_id] > 1:
            found.append(f"1: session {session.session_id} is stored {copies[session.session_id]} times")
    return found


def _content_in_the_end(writes: list[Write]) -> str:
    """What the last update wrote, else what the registration wrote that was not refused as a conflict."""
    updates = [write for write in writes if write.update]
    if updates:
        return max(updates, key=lambda write: write.asked_at).content
    return next((write.content for write in writes if write.outcome != CONFLICT), "nothing that was acknowledged")


def events_stored_once(history: History, stored: Stored) -> list[str]:
    """Every acknowledged event is there, once, with its content; and nothing that was not sent, or not acknowledged,
    more than once.
    """
    found = []
    sent = {(event.session_id, event.event_id, event.content) for event in history.events}
    by_id = Counter((event.session_id, event.event_id, event.content) for event in stored.events)
    by_content = Counter((event.session_id, "", event.content) for event in stored.events)
    for event in sorted(sent, key=str):
        copies = by_id[event] if event[1] else by_content[event]
        if copies != 1:
            found.append(f"1: event {event} was acknowledged and is stored {copies} times")
    unanswered = {(event.session_id, event.event_id, event.content) for event in history.unanswered_events} - sent
    may_be = len(sent) + sum(by_id[event] > 0 for event in unanswered)
    if len(stored.events) > may_be:
        found.append(f"1: {len(stored.events)} events are stored, and only {may_be} were sent")
    return found


# --- promise 2: numbers have no gaps --------------------------------------------------------------------------------


def numbers_without_gaps(history: History, stored: Stored) -> list[str]:
    """In each batch the numbers 1 to the counter were given out, each to one session."""
    found = []
    holders = _holders(history, stored)
    for batch_id, counter in stored.counters.items():
        given = {place.number for place in holders if place.batch_id == batch_id}
        if beyond := sorted(number for number in given if not 1 <= number <= counter):
            found.append(f"2: batch {batch_id} counts to {counter} and gave out {beyond}")
        gaps = [number for number in range(1, counter + 1) if number not in given]
        lost_moves = _moves_that_may_have_run_twice(history, batch_id)
        if len(gaps) > lost_moves:
            found.append(f"2: batch {batch_id} skipped {gaps}, and {lost_moves} moves may have run twice")
    for place, ids in holders.items():
        if place.batch_id not in stored.counters:
            found.append(f"2: there is no batch {place.batch_id}")
        if len(ids) > 1:
            found.append(f"2: {place} was given to {sorted(ids)}")
    return found


def _holders(history: History, stored: Stored) -> dict[Place, set[str]]:
    """Which sessions ever held a number: in what is stored, in answers (they may have moved on), and as readers saw."""
    holders: defaultdict[Place, set[str]] = defaultdict(set)
    for session in stored.sessions:
        holders[session.place].add(session.session_id)
    for write in history.writes:
        holders[write.place].add(write.session_id)
    for reading in history.readings:
        for number, session_id in reading.seen:
            holders[Place(reading.batch_id, number)].add(session_id)
    return dict(holders)


def _moves_that_may_have_run_twice(history: History, batch_id: str) -> int:
    """How many updates may have left a number in this batch that nobody was told of.

    One was in flight when something broke, and was asked for before the batch was released, and ended in another one:
    it may have been stored here unseen. Within one batch a repeated update takes no second number.
    """
    spans = [(kill, kill) for kill in history.kills] + history.outages
    sealed_at = min((release.answered_at for release in history.releases if release.batch_id == batch_id), default=0.0)
    return sum(
        write.update
        and write.place.batch_id != batch_id
        and write.asked_at <= sealed_at
        and any(write.asked_at <= end and start <= write.answered_at for start, end in spans)
        for write in history.writes
    )


# --- promise 3: nothing appears behind a reader ---------------------------------------------------------------------


def nothing_behind_a_reader(history: History, stored: Stored) -> list[str]:
    """Each reader saw ascending numbers, and all that lies in the batch up to where it got."""
    found = []
    for reading in history.readings:
        who = f"{reading.reader} in batch {reading.batch_id}"
        numbers = [number for number, _ in reading.seen]
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            found.append(f"3: {who} saw numbers that do not ascend: {numbers}")
        passed = max([reading.last_number, *numbers])
        seen = set(reading.seen)
        for session in stored.sessions:
            batch_id, number = session.place
            if batch_id == reading.batch_id and number <= passed and (number, session.session_id) not in seen:
                found.append(f"3: {who} passed {passed} and never saw {session.session_id} under {number}")
        if reading.sealed and reading.batch_id and reading.last_number != stored.counters.get(reading.batch_id):
            found.append(f"3: {who} was told that {reading.last_number} completes it")
    return found


# --- promise 4: a released batch is sealed --------------------------------------------------------------------------


def released_means_sealed(history: History, stored: Stored) -> list[str]:
    """What was asked for after a release was answered lies in another batch, and the counter stays as it was told."""
    found = []
    for release in history.releases:
        counter = stored.counters.get(release.batch_id)
        if counter != release.counter:
            found.append(f"4: batch {release.batch_id} was released at {release.counter} and counts to {counter}")
        found += [
            f"4: session {write.session_id} was registered in batch {release.batch_id} after its release"
            for write in history.writes
            if write.place.batch_id == release.batch_id
            and (
                write.place.number > release.counter
                or (write.outcome == INSERTED and write.asked_at > release.answered_at)
            )
        ]
    for release_id, releases in _grouped((release.release_id, release) for release in history.releases).items():
        if len({release.batch_id for release in releases}) > 1:
            found.append(f"4: key {release_id} released more than one batch")
        if sum(not release.already_released for release in releases) > 1:
            found.append(f"4: key {release_id} was told to be new more than once")
    return found


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
