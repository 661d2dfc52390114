"""ExportSessions, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pytest

from clickstream import (
    BatchNotFound,
    ClickstreamDao,
    ExportAccount,
    ExportedSession,
    ExportFilter,
    ExportPage,
    ImportChunk,
    ImportConfig,
    ImportItem,
    InvalidField,
    MessageTooLarge,
    Money,
    Session,
    SessionEvent,
    TransferDao,
)
from harness import PATIENCE_S, served

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXACT = Context(prec=200)


def session(number: int, **fields: Any) -> Session:
    """Three sessions a microsecond, so that pages end in the middle of a tie; half of them of user `u`."""
    given = {"created_at": NOON + timedelta(microseconds=number // 3), "user_id": "u" if number % 2 else None}
    return Session(session_id=f"s{(number * 7919) % 1000:03}", **{**given, **fields})


def event(session_id: str, event_id: str, value: str = "", currency: str = "EUR", **fields: Any) -> SessionEvent:
    money = Money(currency_code=currency, amount=Decimal(value)) if value else None
    given = {"object_id": "o", "created_at": NOON, "value": money, **fields}
    return SessionEvent(session_id=session_id, event_id=event_id, **given)


async def filled(transfer: TransferDao, items: Sequence[ImportItem]) -> None:
    async def chunks() -> AsyncIterator[ImportChunk]:
        for at in range(0, len(items), 200):
            yield ImportChunk(at + 1, items[at : at + 200])

    config = ImportConfig(import_id="i", max_failure_ratio=0.0)
    async with aclosing(transfer.import_sessions(config, chunks())) as answers:
        *_, summary = [answer async for answer in answers]
    assert len(items) == summary.sessions.inserted


def many(count: int = 200) -> list[ImportItem]:
    """Sessions with none to four events, of two types, some worth something."""
    items = []
    for number in range(count):
        one = session(number)
        kinds = ["click", "purchase", "click", "purchase"][: number % 5]
        events = [
            event(one.session_id, str(place), "0.1" if kind == "purchase" else "", event_type=kind)
            for place, kind in enumerate(kinds)
        ]
        items.append(ImportItem(one, events))
    return items


async def exported(transfer: TransferDao, chosen: ExportFilter | None = None, **options: Any) -> list[ExportPage]:
    pages = transfer.export_sessions(chosen or ExportFilter(), **options)
    async with asyncio.timeout(PATIENCE_S), aclosing(pages):
        return [page async for page in pages]


def sessions_of(pages: Sequence[ExportPage]) -> list[ExportedSession]:
    return [one for page in pages for one in page.sessions]


def ids(pages: Sequence[ExportPage]) -> list[str]:
    return [one.session.session.session_id for one in sessions_of(pages)]


def sums(values: Sequence[Money]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for value in values:
        found[value.currency_code] = EXACT.add(found.get(value.currency_code, Decimal(0)), value.amount)
    return found


def trailer_of(pages: Sequence[ExportPage]) -> ExportAccount:
    """The trailer, which the last page has and no other."""
    assert [None] * (len(pages) - 1) == [page.trailer for page in pages[:-1]]
    trailer = pages[-1].trailer
    assert trailer is not None
    return trailer


def assert_agrees(pages: Sequence[ExportPage]) -> None:
    """The trailer's counts and totals are the sums over the sessions."""
    trailer, found = trailer_of(pages), sessions_of(pages)
    assert len(found) == trailer.session_count
    assert sum(one.session.event_count for one in found) == trailer.event_count
    assert sums([total for one in found for total in one.totals]) == sums(trailer.totals)


# --- what comes out -------------------------------------------------------------------------------------------------


async def test_everything_comes_out_in_order(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """Without a filter every session comes once, by `created_at`, then id, just as GetSession shows it."""
    items = many()
    await filled(transfer, items)
    pages = await exported(transfer)
    sent = sorted((one.session.created_at, one.session.session_id) for one in items)  # type: ignore[union-attr]
    found = sessions_of(pages)

    assert sent == [(one.session.session.created_at, one.session.session.session_id) for one in found]
    for one in found[::20]:
        assert one.session == await dao.get_session(one.session.session.session_id, events_limit=None)
    assert 400 == trailer_of(pages).event_count
    assert_agrees(pages)


FILTERS: dict[str, tuple[ExportFilter, Any]] = {
    "user": (ExportFilter(user_id="u"), lambda number, one: one.user_id == "u"),
    "from": (ExportFilter(created_from=NOON + timedelta(microseconds=20)), lambda number, one: number // 3 >= 20),
    "to": (ExportFilter(created_to=NOON + timedelta(microseconds=20)), lambda number, one: number // 3 < 20),
    "between": (
        ExportFilter(
            created_from=NOON + timedelta(microseconds=10), created_to=NOON + timedelta(microseconds=20), user_id="u"
        ),
        lambda number, one: 10 <= number // 3 < 20 and one.user_id == "u",
    ),
    "nothing": (ExportFilter(user_id="nobody"), lambda number, one: False),
    "backwards": (
        ExportFilter(created_from=NOON + timedelta(days=1), created_to=NOON),
        lambda number, one: False,
    ),
    "relevant": (ExportFilter(exclude_irrelevant=True), lambda number, one: number % 4 != 0),
    "ids": (
        ExportFilter(session_ids=["s919", "unknown", "s000", "s919", "s838"], exclude_irrelevant=True),
        lambda number, one: one.session_id in {"s919", "s838"},
    ),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_selects_what_it_says(transfer: TransferDao, name: str) -> None:
    """What a filter selects is complete and in order, and has a trailer, be it empty."""
    sent = [session(number, is_irrelevant=number % 4 == 0) for number in range(150)]
    await filled(transfer, [ImportItem(one, [event(one.session_id, "e", "1.5")]) for one in sent])
    chosen, holds = FILTERS[name]
    expected = [one for number, one in enumerate(sent) if holds(number, one)]
    by = (lambda one: one.session_id) if chosen.session_ids else (lambda one: (one.created_at, one.session_id))
    pages = await exported(transfer, chosen)

    assert [one.session_id for one in sorted(expected, key=by)] == ids(pages)
    assert_agrees(pages)


async def test_a_batch_comes_by_number(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """The export of a batch is that batch, by number; an unknown batch is not found."""
    await filled(transfer, many(100))
    released = await dao.release_batch("r")
    await dao.register_session(Session(session_id="of the next batch"))
    pages = await exported(transfer, ExportFilter(batch_id=released.batch.batch_id))

    assert list(range(1, 101)) == [one.session.session_number for one in sessions_of(pages)]
    with pytest.raises(BatchNotFound):
        await exported(transfer, ExportFilter(batch_id="unknown"))


async def test_event_types_select_events_not_sessions(transfer: TransferDao) -> None:
    """Events, counts and totals are those of the asked-for types; sessions without any come, too."""
    await filled(transfer, many(100))
    pages = await exported(transfer, ExportFilter(event_types=["purchase", "unknown"]))
    found = [one.session for one in sessions_of(pages)]

    assert 100 == len(found)
    assert {"purchase"} == {one.event_type for kept in found for one in kept.events}
    assert all(kept.event_count == len(kept.events) for kept in found)
    assert 80 == trailer_of(pages).event_count
    assert {"EUR": Decimal("8.0")} == sums(trailer_of(pages).totals)


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_a_limit_of_events_does_not_limit_the_account(transfer: TransferDao, limit: int) -> None:
    """With `events_limit` the earliest events come, and the counts and totals are those of all."""
    events = [
        event("s", name, "2.5", created_at=NOON + timedelta(seconds=second))
        for name, second in [("d", 3), ("a", 2), ("b", 2), ("c", 1), ("e", 0)]
    ]
    await filled(transfer, [ImportItem(Session(session_id="s", created_at=NOON), events)])
    pages = await exported(transfer, events_limit=limit)
    (found,) = sessions_of(pages)

    assert ["e", "c", "a"][:limit] == [one.event_id for one in found.session.events]
    assert (5, {"EUR": Decimal("12.5")}) == (found.session.event_count, sums(found.totals))
    assert_agrees(pages)


TINY = "0." + "0" * 33 + "1"
LARGE = "9" * 34


async def test_totals_are_exact(transfer: TransferDao) -> None:
    """Sums are exact to the last digit, for each currency, over amounts that no float and no Decimal128 could add."""
    values = [("0.1", "EUR"), ("0.2", "EUR"), (LARGE, "USD"), (LARGE, "USD"), (TINY, "USD"), ("-5.00", "JPY")]
    values += [("5.00", "JPY"), ("1", "CHF")]
    events = [event("s", str(place), *value) for place, value in enumerate(values)]
    more = [event("t", "0", "0.7", "EUR"), event("t", "1", f"-{LARGE}", "USD")]
    await filled(
        transfer,
        [ImportItem(Session(session_id=name, created_at=NOON), of) for name, of in (("s", events), ("t", more))],
    )
    pages = await exported(transfer)
    first, _ = sessions_of(pages)
    twice = EXACT.add(Decimal(LARGE), Decimal(LARGE))

    assert ["CHF", "EUR", "JPY", "USD"] == [total.currency_code for total in first.totals]
    assert {
        "CHF": Decimal(1),
        "EUR": Decimal("0.3"),
        "JPY": Decimal(0),
        "USD": EXACT.add(twice, Decimal(TINY)),
    } == sums(first.totals)
    assert {
        "CHF": Decimal(1),
        "EUR": Decimal("1.0"),
        "JPY": Decimal(0),
        "USD": EXACT.add(Decimal(LARGE), Decimal(TINY)),
    } == sums(trailer_of(pages).totals)
    assert all("E" not in total.text for total in first.totals)


async def test_an_empty_export_has_a_trailer(transfer: TransferDao) -> None:
    """An empty store gives one page without sessions, with a trailer of nothing."""
    (page,) = await exported(transfer)

    assert ((), ExportAccount()) == (page.sessions, page.trailer)
    assert bytes(32) == ExportAccount().digest


@pytest.mark.parametrize("limit", [1, 63, 64, 65, 199, 200, 201])
async def test_a_limit_ends_it_with_a_trailer(transfer: TransferDao, limit: int) -> None:
    """`limit` gives the first so many sessions, and a trailer of these."""
    await filled(transfer, many())
    pages = await exported(transfer, limit=limit)

    assert ids(await exported(transfer))[:limit] == ids(pages)
    assert_agrees(pages)


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all", "batch", "user", "ids"])
async def test_every_page_can_be_gone_on_from(dao: ClickstreamDao, transfer: TransferDao, name: str) -> None:
    """Going on from any page's token gives the same rest and the same trailer."""
    items = many(700)
    await filled(transfer, items)
    batch_id = (await dao.list_batches()).batches[0].batch_id
    asked = [one.session.session_id for one in items[::2]]  # type: ignore[union-attr]
    chosen = {
        "all": ExportFilter(),
        "batch": ExportFilter(batch_id=batch_id),
        "user": ExportFilter(user_id="u", event_types=["purchase"]),
        "ids": ExportFilter(session_ids=asked),
    }[name]
    pages = await exported(transfer, chosen)

    assert len(pages) >= 2
    for place, page in enumerate(pages):
        rest = await exported(transfer, chosen, resume_token=page.resume_token)
        assert sessions_of(pages[place + 1 :]) == sessions_of(rest)
        assert trailer_of(pages) == trailer_of(rest)


async def test_a_limit_that_is_gone_on_from(transfer: TransferDao) -> None:
    """Exports of one session each, each going on from the one before, come to the whole with its trailer."""
    await filled(transfer, many(30))
    whole = await exported(transfer)
    token, found = "", []
    for number in range(30):
        pages = await exported(transfer, limit=1, resume_token=token)
        found += sessions_of(pages)
        token = pages[-1].resume_token
        assert number + 1 == trailer_of(pages).session_count

    assert sessions_of(whole) == found
    assert trailer_of(whole) == trailer_of(pages)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"chosen": ExportFilter(user_id="u")}),
        ({}, {"events_limit": 1}),
        ({"events_limit": 1}, {}),
        ({"events_limit": 1}, {"events_limit": 2}),
    ],
)
async def test_a_token_of_another_export_is_refused(
    transfer: TransferDao, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """A token goes with its filter and its limit of events: the account of the whole would be of neither."""
    await filled(transfer, many(10))
    token = (await exported(transfer, **first))[0].resume_token
    with pytest.raises(InvalidField) as raised:
        await exported(transfer, **then, resume_token=token)

    assert ["resume_token"] == [violation.path for violation in raised.value.violations]


async def test_what_is_written_meanwhile_breaks_nothing(dao: ClickstreamDao, transfer: TransferDao) -> None:
    """Writes during an export leave it in order, with everything that was there before it, each once."""
    await filled(transfer, many(700))
    before = set(ids(await exported(transfer)))
    pages = []
    async with asyncio.timeout(PATIENCE_S), aclosing(transfer.export_sessions(ExportFilter())) as running:
        async for page in running:
            pages.append(page)
            for number in (0, 350, 690):
                changed = session(number, search_meta={"page": len(pages)})
                await dao.update_session(changed)
                await dao.push_events([event(changed.session_id, f"new {len(pages)}", "3")])
            for created_at in (NOON - timedelta(days=1), NOON, NOON + timedelta(days=1)):
                new = f"new {len(pages)} {created_at.day}"
                await dao.register_session(Session(session_id=new, created_at=created_at))
    found = [(one.session.session.created_at, one.session.session.session_id) for one in sessions_of(pages)]

    assert len(pages) >= 3
    assert sorted(set(found)) == found
    assert before <= set(ids(pages))
    assert_agrees(pages)


async def test_more_events_than_a_message_holds(mongodb_uri: str, database: str) -> None:
    """A session with more events than a message holds is refused over the wire, and comes with `events_limit`."""
    events = [event("s", f"{number:03}", "1", meta={"text": "x" * 60_000}) for number in range(150)]
    async with served(mongodb_uri, database) as client:
        await client.register_session(Session(session_id="s"))
        for at in range(0, 150, 50):
            await client.push_events(events[at : at + 50])
        with pytest.raises(MessageTooLarge):
            await exported(client)
        pages = await exported(client, events_limit=100)

    assert (150, 100) == (trailer_of(pages).event_count, len(sessions_of(pages)[0].session.events))
