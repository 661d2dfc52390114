"""What an export consists of, and the running account that its trailer is checked against. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Protocol

from clickstream.models import Money, SessionEvent, SessionWithEvents

_EXACT = Context(prec=7000)
"""Wide enough that a sum of Decimal128 values (34 digits, exponents -6176 to 6111) is never rounded in practice."""

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


class _Accountable(Protocol):
    """What an account is kept of: an ExportedSession, or a message with the same parts."""

    @property
    def session(self) -> Any:
        """A SessionWithEvents, or the message of that name."""

    @property
    def totals(self) -> Sequence[Money]:
        """See ExportedSession."""


@dataclass(frozen=True, slots=True)
class ExportAccount:
    """What an export holds so far; at its end this is the trailer."""

    session_count: int = 0
    event_count: int = 0
    totals: tuple[Money, ...] = ()
    digest: bytes = EMPTY_DIGEST

    def after(self, sessions: Iterable[_Accountable]) -> ExportAccount:
        """The account with these sessions added."""
        session_count, event_count, digest = self.session_count, self.event_count, self.digest
        values = list(self.totals)
        for exported in sessions:
            session_count += 1
            event_count += exported.session.event_count
            values.extend(exported.totals)
            digest = hashlib.sha256(digest + _row(exported.session)).digest()
        return ExportAccount(session_count, event_count, sum_by_currency(values), digest)


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
        sums[value.currency_code] = _EXACT.add(sums.get(value.currency_code, Decimal(0)), value.amount)
    return tuple(Money.model_construct(currency_code=code, amount=amount) for code, amount in sorted(sums.items()))


def totals_of(events: Iterable[SessionEvent]) -> tuple[Money, ...]:
    """The exact sum of the events' values for each currency."""
    return sum_by_currency(event.value for event in events if event.value is not None)


def _row(found: Any) -> bytes:
    parts = [found.session.session_id, found.batch_id, str(found.session_number), str(found.event_count)]
    parts.extend(event.event_id for event in found.events)
    return "".join(f"{part}\0" for part in parts).encode()
