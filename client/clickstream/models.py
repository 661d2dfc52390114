"""The domain: sessions, their events, the batches that number them, and what became of what was sent."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from clickstream.values import JsonObject, Moment, SearchQuery, Text

DEFAULT_EVENT_TYPE = "click"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=False)


class Order(StrEnum):
    """The direction of a sort."""

    ASC = "ASC"
    DESC = "DESC"


class SortBy(_Model):
    """The order that the person asked for."""

    field: Text = ""
    order: Order = Order.ASC
    force_not_payload: bool = False


class SearchResultItem(_Model):
    """One result as it was shown. `rank` is the search engine's rank or score."""

    object_id: Text
    rank: float | None = None
    meta: JsonObject = Field(default_factory=dict)


class Session(_Model):
    """One search with the results that were shown for it. `created_at` None: the server's clock decides."""

    session_id: Text
    search_query: SearchQuery = None
    search_results: tuple[SearchResultItem, ...] = ()
    search_meta: JsonObject = Field(default_factory=dict)
    payload_filter: JsonObject = Field(default_factory=dict)
    sort_by: SortBy | None = None
    user_id: Text | None = None
    created_at: Moment | None = None
    is_irrelevant: bool = False
    is_payload_search: bool = False


class Money(_Model):
    """An exact amount: an ISO 4217 code and a decimal of at most 34 significant digits. Floats are refused."""

    currency_code: Text
    amount: Decimal

    if TYPE_CHECKING:  # text, too, which type checkers cannot know from the field

        def __init__(self, *, currency_code: str, amount: Decimal | int | str) -> None: ...

    @field_validator("amount", mode="before")
    @classmethod
    def _plain_decimal(cls, amount: Any) -> Any:
        if isinstance(amount, str):
            if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", amount):
                raise ValueError("must be a decimal number in plain digits, such as 12.50")
        elif isinstance(amount, bool) or not isinstance(amount, Decimal | int):
            raise ValueError("must be text, a Decimal or an int: a float is not exact")
        return amount

    @field_validator("amount")
    @classmethod
    def _fits_decimal128(cls, amount: Decimal) -> Decimal:
        """34 digits and an exponent from -6176 are what BSON's Decimal128 holds (IEEE 754-2008)."""
        _, digits, exponent = amount.as_tuple()
        if not isinstance(exponent, int):
            raise ValueError("must be a finite number")
        if len(digits) + max(exponent, 0) > 34 or exponent < -6176:
            raise ValueError("must have 34 significant digits at most")
        return Decimal(format(amount, "f"))

    @property
    def text(self) -> str:
        """The amount in plain digits, trailing zeros kept."""
        return format(self.amount, "f")


class SessionEvent(_Model):
    """One thing that a person did after a search.

    Without `event_id` the server derives one from the content, and `created_at` is required. An empty `object_id`
    means that the event is about the session as a whole; a click needs one.
    """

    event_id: Text = ""
    session_id: Text
    object_id: Text = ""
    event_type: Text = DEFAULT_EVENT_TYPE
    created_at: Moment | None = None
    meta: JsonObject = Field(default_factory=dict)
    value: Money | None = None

    @field_validator("event_type")
    @classmethod
    def _empty_means_click(cls, event_type: str) -> str:
        return event_type or DEFAULT_EVENT_TYPE


class RegisteredSession(_Model):
    """A session with its place in a batch. Its `created_at` is set."""

    session: Session
    batch_id: str
    session_number: int
    registered_at: Moment


class SessionWithEvents(RegisteredSession):
    """A session with its place in a batch and its events by `created_at`, then `event_id`.

    `event_count` is how many are stored; larger than `len(events)`: a limit left some out.
    """

    events: tuple[SessionEvent, ...] = ()
    event_count: int = 0


class SessionBatchStatus(StrEnum):
    """Where a batch is in its life. Every status but COLLECTING means that it is sealed."""

    COLLECTING = "COLLECTING"
    RELEASED = "RELEASED"
    FINE_TUNING = "FINE_TUNING"
    COMPLETED = "COMPLETED"
    ARCHIVING = "ARCHIVING"
    ARCHIVED = "ARCHIVED"


class SessionBatch(_Model):
    """A numbered run of sessions. The numbers given out in it are 1 to `session_counter`, without gaps."""

    batch_id: str
    status: SessionBatchStatus
    session_counter: int
    created_at: Moment
    release_id: str | None = None
    released_at: Moment | None = None
    updated_at: Moment

    @property
    def sealed(self) -> bool:
        """Whether the batch takes no more sessions."""
        return self.status is not SessionBatchStatus.COLLECTING


class WriteOutcome(StrEnum):
    """What became of one thing that was sent to be stored."""

    INSERTED = "INSERTED"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"
    REJECTED = "REJECTED"


class ItemFailure(_Model):
    """Why one thing among many was not stored. `index` is its place in the request, from 0."""

    index: int
    id: str
    outcome: WriteOutcome
    reason: str
    message: str
    retryable: bool = False


class Registration(_Model):
    """What `register_session` did: INSERTED, or DUPLICATE or CONFLICT with what was stored before."""

    session: RegisteredSession
    outcome: WriteOutcome


class PushResult(_Model):
    """What became of pushed events. The four counts add up to their number; `failures` is never cut off."""

    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    failures: tuple[ItemFailure, ...] = ()

    def plus(self, other: PushResult) -> PushResult:
        """Both accounts as one: the counts only, since a failure's index has its meaning within its request."""
        return PushResult(
            inserted=self.inserted + other.inserted,
            duplicates=self.duplicates + other.duplicates,
            conflicts=self.conflicts + other.conflicts,
            rejected=self.rejected + other.rejected,
        )


class SessionPage(_Model):
    """Some sessions of a batch, by ascending number.

    Everything up to `last_number` has been read; `sealed`: the batch is sealed and this page completes it.
    """

    sessions: tuple[SessionWithEvents, ...]
    last_number: int
    sealed: bool


class BatchList(_Model):
    """A page of batches, newest first; `next_page_token` is empty on the last."""

    batches: tuple[SessionBatch, ...]
    next_page_token: str = ""


class BatchRelease(_Model):
    """The batch that a release key sealed, and whether it had done so before this call.

    A try of this very call whose answer was lost counts as before it.
    """

    batch: SessionBatch
    already_released: bool
