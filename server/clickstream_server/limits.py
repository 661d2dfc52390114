"""What the service takes at most, and the checks for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clickstream.errors import FieldViolation, InvalidField
from clickstream.models import DEFAULT_EVENT_TYPE, Session, SessionEvent
from clickstream.values import JSON_DEPTH_MAX, MESSAGE_BYTES_MAX, json_depth, text_fault
from clickstream_server.canonical import canonical_json
from clickstream_server.currencies import CURRENCY_CODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The contract's limits. Ids and types in characters, ages in seconds, sizes in bytes: of canonical JSON, or of the
    message.
    """

    id_chars_max: int = 256
    event_type_chars_max: int = 64
    search_results_max: int = 1_000
    events_per_call_max: int = 10_000
    meta_bytes_max: int = 64 * 1024
    json_depth_max: int = JSON_DEPTH_MAX
    session_bytes_max: int = 1024 * 1024
    message_bytes_max: int = MESSAGE_BYTES_MAX
    future_s_max: float = 300.0
    age_s_max: float | None = None


class _Violations(list[FieldViolation]):
    """Collects what is wrong, so that a caller learns of all of it at once."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits

    def note(self, path: str, description: str) -> None:
        self.append(FieldViolation(path, description))

    def check_id(self, path: str, value: str) -> None:
        if len(value) > self.limits.id_chars_max:
            self.note(path, f"must have {self.limits.id_chars_max} characters at most, not {len(value)}")
        elif not value.strip():
            self.note(path, "must not be empty or blank")
        elif fault := text_fault(value):
            self.note(path, fault)

    def check_moment(self, path: str, micros: int | None, now_micros: int) -> None:
        if micros is None:
            return
        if micros - now_micros > self.limits.future_s_max * 1_000_000:
            self.note(path, f"must not be more than {self.limits.future_s_max:g} seconds in the future")
        if self.limits.age_s_max is not None and now_micros - micros > self.limits.age_s_max * 1_000_000:
            self.note(path, f"must not be older than {self.limits.age_s_max:g} seconds")

    def check_meta(self, path: str, meta: dict[str, Any]) -> None:
        size = len(canonical_json(meta))
        if size > self.limits.meta_bytes_max:
            self.note(path, f"must have {self.limits.meta_bytes_max} bytes as JSON at most, not {size}")

    def check_depth(self, path: str, value: Any) -> None:
        """The models hold what is sent to JSON_DEPTH_MAX, so there is something to do for a lower limit only."""
        most = self.limits.json_depth_max
        if most < JSON_DEPTH_MAX and json_depth(value) > most:
            self.note(path, f"must not be nested deeper than {most} levels")

    def check_storable(self, content: bytes) -> None:
        """MongoDB's drivers read an object with $ref and $id as a reference, and lose a null database in it."""
        if b'"$db":null' in content and b'"$ref":"' in content:
            self.note("", 'an object with "$ref" and a "$db" of null cannot be stored; leave "$db" out')

    def raise_if_any(self) -> None:
        if self:
            raise InvalidField.of(self)


def check_session(session: Session, *, content: bytes, created_at: int | None, now_micros: int, limits: Limits) -> None:
    """Raise InvalidField if the session breaks a limit. `content`: its canonical form."""
    found = _Violations(limits)
    found.check_id("session_id", session.session_id)
    if session.user_id is not None:
        found.check_id("user_id", session.user_id)
    found.check_moment("created_at", created_at, now_micros)
    if len(session.search_results) > limits.search_results_max:
        found.note("search_results", f"must be {limits.search_results_max} at most, not {len(session.search_results)}")
    for place, item in enumerate(session.search_results[: limits.search_results_max]):
        found.check_id(f"search_results[{place}].object_id", item.object_id)
    found.check_storable(content)
    found.check_depth("search_query", session.search_query)
    found.check_depth("search_meta", session.search_meta)
    found.check_depth("payload_filter", session.payload_filter)
    for place, item in enumerate(session.search_results):
        found.check_depth(f"search_results[{place}].meta", item.meta)
    if len(content) > limits.session_bytes_max:
        found.note("", f"a session must have {limits.session_bytes_max} bytes as JSON at most, not {len(content)}")
    elif len(content) > limits.meta_bytes_max:
        found.check_meta("search_meta", session.search_meta)
        found.check_meta("payload_filter", session.payload_filter)
        for place, item in enumerate(session.search_results):
            found.check_meta(f"search_results[{place}].meta", item.meta)
    found.raise_if_any()


def check_event(
    event: SessionEvent, *, content: bytes, created_at: int | None, now_micros: int, limits: Limits
) -> None:
    """Raise InvalidField if the event breaks a limit or a rule. `content`: its canonical form."""
    found = _Violations(limits)
    found.check_id("session_id", event.session_id)
    if event.event_id:
        found.check_id("event_id", event.event_id)
    elif created_at is None:
        found.note("created_at", "must be set where event_id is empty, so that a retry can be told from a new event")
    if event.object_id:
        found.check_id("object_id", event.object_id)
    elif event.event_type == DEFAULT_EVENT_TYPE:
        found.note("object_id", "must be set for a click")
    if len(event.event_type) > limits.event_type_chars_max:
        found.note("event_type", f"must have {limits.event_type_chars_max} characters at most")
    elif not event.event_type.strip():
        found.note("event_type", "must not be blank")
    found.check_moment("created_at", created_at, now_micros)
    found.check_storable(content)
    found.check_depth("meta", event.meta)
    if len(content) > limits.meta_bytes_max:
        found.check_meta("meta", event.meta)
    if event.value is not None and event.value.currency_code not in CURRENCY_CODES:
        found.note("value.currency_code", "must be a currency code of ISO 4217, such as EUR")
    found.raise_if_any()


def check_id(path: str, value: str, limits: Limits) -> None:
    """Raise InvalidField if `value` cannot be an id."""
    found = _Violations(limits)
    found.check_id(path, value)
    found.raise_if_any()


def check_not_negative(**values: int | None) -> None:
    """Raise InvalidField for each named value that is below 0."""
    found = [FieldViolation(name, "must not be negative") for name, value in values.items() if value and value < 0]
    if found:
        raise InvalidField.of(found)
