"""What an export consists of, and the running account that its trailer is checked against. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from typing import Any

from clickstream.models import Money, SessionEvent, SessionWithEvents

_EXACT = Context(prec=7000)
"""Wide enough that a sum of Decimal128 values (34 digits, exponents -6176 to 6111) is never rounded in practice."""

_NOTHING = Decimal(0)

EMPTY_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFilter:
    """Which sessions and events; what is set must hold all together. See the proto of the same name."""

    batch_id: str = ""
    session_ids: Sequence[str] = ()
    user_id: str = ""
    created_from: datetime | None = None
    created_to: datetime | None = None
    event_types: Sequence[str] = ()
    exclude_irrelevant: bool = False


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """A session with its events, and the exact sum of their values for each currency, by currency code."""

    session: SessionWithEvents
    totals: tuple[Money, ...] = ()


AccountRow = tuple[bytes, int, Sequence[Money]]
"""What an account keeps of one session: what is hashed, the count of its events, and their totals."""


def account_row(
    place: tuple[str, str, int], event_count: int, event_ids: Iterable[str], totals: Sequence[Money]
) -> AccountRow:
    """`place`: the session's id, its batch and its number there."""
    session_id, batch_id, number = place
    hashed = "\0".join([session_id, batch_id, str(number), str(event_count), *event_ids, ""])
    return hashed.encode(), event_count, totals


@dataclass(frozen=True, slots=True)
class ExportAccount:
    """What an export holds so far; at its end this is the trailer."""

    session_count: int = 0
    event_count: int = 0
    totals: tuple[Money, ...] = ()
    digest: bytes = EMPTY_DIGEST

    def after(self, sessions: Iterable[ExportedSession]) -> ExportAccount:
        """The account with these sessions added."""
        return self.plus(map(_row, sessions))

    def plus(self, rows: Iterable[AccountRow]) -> ExportAccount:
        """As `after`."""
        session_count, event_count, digest = self.session_count, self.event_count, self.digest
        values = list(self.totals)
        for hashed, events, totals in rows:
            session_count += 1
            event_count += events
            values.extend(totals)
            digest = hashlib.sha256(digest + hashed).digest()
        return ExportAccount(session_count, event_count, sum_by_currency(values), digest)


def fields_from_account(account: ExportAccount) -> dict[str, Any]:
    """The account as JSON, to be kept with a place in an export."""
    return {
        "sessions": account.session_count,
        "events": account.event_count,
        "totals": [[total.currency_code, total.text] for total in account.totals],
        "digest": account.digest.hex(),
    }


def account_from_fields(fields: Mapping[str, Any]) -> ExportAccount:
    """The account that was kept; what stands there besides is left alone.

    Raises KeyError, TypeError, ValueError or ArithmeticError for what is none. Types are not all checked.
    """
    totals = tuple(
        Money.model_construct(currency_code=code, amount=Decimal(amount)) for code, amount in fields["totals"]
    )
    return ExportAccount(fields["sessions"], fields["events"], totals, bytes.fromhex(fields["digest"]))


@dataclass(frozen=True, slots=True)
class ExportPage:
    """Some sessions of an export. `trailer` is set on the last page, with the account of the whole."""

    sessions: tuple[ExportedSession, ...]
    resume_token: str
    trailer: ExportAccount | None = None


def sum_by_currency(values: Iterable[Money]) -> tuple[Money, ...]:
    """The exact sum for each currency, by currency code."""
    sums: dict[str, Decimal] = {}
    for value in values:
        add_amount(sums, value.currency_code, value.amount)
    return totals_from(sums)


def add_amount(sums: dict[str, Decimal], currency_code: str, amount: Decimal) -> None:
    """Add an amount to the sums by currency."""
    sums[currency_code] = _EXACT.add(sums.get(currency_code, _NOTHING), amount)


def totals_from(sums: Mapping[str, Decimal]) -> tuple[Money, ...]:
    """The sums, by currency code. They may have more digits than an amount that can be stored."""
    return tuple(Money.model_construct(currency_code=code, amount=amount) for code, amount in sorted(sums.items()))


def totals_of(events: Iterable[SessionEvent]) -> tuple[Money, ...]:
    """The exact sum of the events' values for each currency."""
    return sum_by_currency(event.value for event in events if event.value is not None)


def _row(exported: ExportedSession) -> AccountRow:
    found = exported.session
    place = found.session.session_id, found.batch_id, found.session_number
    return account_row(place, found.event_count, [event.event_id for event in found.events], exported.totals)
