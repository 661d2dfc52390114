"""What the service takes at most, and the checks for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clickstream.errors import FieldViolation, InvalidField
from clickstream.models import DEFAULT_EVENT_TYPE
from clickstream.values import JSON_DEPTH_MAX, MESSAGE_BYTES_MAX, json_depth, text_fault
from clickstream_server.canonical import Document, canonical_json
from clickstream_server.currencies import CURRENCY_CODES

ID_CHARS_MOST = 1_024
"""The contract's limit of ids may be set to so many: what is asked for by a thousand ids must fit into a command."""


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


Faults = list[FieldViolation]
"""What is wrong, so that a caller learns of all of it at once."""


def _check_id(found: Faults, path: str, value: str, limits: Limits) -> None:
    if fault := _id_fault(value, limits):
        found.append(FieldViolation(path, fault))


def _id_fault(value: str, limits: Limits) -> str | None:
    if len(value) > limits.id_chars_max:
        return f"must have {limits.id_chars_max} characters at most, not {len(value)}"
    if not value or value.isspace():
        return "must not be empty or blank"
    return text_fault(value)


def _check_created_at(found: Faults, micros: int, now_micros: int, limits: Limits) -> None:
    if micros - now_micros > limits.future_s_max * 1_000_000:
        text = f"must not be more than {limits.future_s_max:g} seconds in the future"
        found.append(FieldViolation("created_at", text))
    if limits.age_s_max is not None and now_micros - micros > limits.age_s_max * 1_000_000:
        found.append(FieldViolation("created_at", f"must not be older than {limits.age_s_max:g} seconds"))


def _check_storable(found: Faults, content: bytes) -> None:
    """MongoDB's drivers read an object with $ref and $id as a reference, and lose a null database in it."""
    if b'"$db":null' in content and b'"$ref":"' in content:
        found.append(FieldViolation("", 'an object with "$ref" and a "$db" of null cannot be stored; leave "$db" out'))


def _check_depth(found: Faults, path: str, value: Any, limits: Limits) -> None:
    if json_depth(value) > limits.json_depth_max:
        found.append(FieldViolation(path, f"must not be nested deeper than {limits.json_depth_max} levels"))


def _check_meta(found: Faults, path: str, meta: Any, limits: Limits) -> None:
    if meta is not None and (size := len(canonical_json(meta))) > limits.meta_bytes_max:
        text = f"must have {limits.meta_bytes_max} bytes as JSON at most, not {size}"
        found.append(FieldViolation(path, text))


def check_session(document: Document, *, content: bytes, now_micros: int, limits: Limits) -> None:
    """Raise InvalidField if the session breaks a limit. `content`: its canonical form.

    `document` is what is to be stored; `created_at` is missing in it where the client sent none.
    """
    found: Faults = []
    get = document.get
    _check_id(found, "session_id", document["_id"], limits)
    if (user_id := get("user_id")) is not None:
        _check_id(found, "user_id", user_id, limits)
    if (created_at := get("created_at")) is not None:
        _check_created_at(found, created_at, now_micros, limits)
    _check_results(found, get("search_results", ()), limits)
    _check_storable(found, content)
    if limits.json_depth_max < JSON_DEPTH_MAX:  # what is sent is held to JSON_DEPTH_MAX already
        _check_depth(found, "search_query", get("search_query"), limits)
        for path, value in _metas(document):
            _check_depth(found, path, value, limits)
    if len(content) > limits.session_bytes_max:
        text = f"a session must have {limits.session_bytes_max} bytes as JSON at most, not {len(content)}"
        found.append(FieldViolation("", text))
    elif len(content) > limits.meta_bytes_max:
        for path, value in _metas(document):
            _check_meta(found, path, value, limits)
    if found:
        raise InvalidField.of(found)


def _check_results(found: Faults, results: Sequence[Document], limits: Limits) -> None:
    if len(results) > limits.search_results_max:
        text = f"must be {limits.search_results_max} at most, not {len(results)}"
        found.append(FieldViolation("search_results", text))
    for place, item in enumerate(results[: limits.search_results_max]):
        if fault := _id_fault(item["object_id"], limits):
            found.append(FieldViolation(f"search_results[{place}].object_id", fault))


def _metas(document: Document) -> Iterator[tuple[str, Any]]:
    """What a session has of free JSON, but for its query."""
    yield "search_meta", document.get("search_meta")
    yield "payload_filter", document.get("payload_filter")
    for place, item in enumerate(document.get("search_results", ())):
        yield f"search_results[{place}].meta", item.get("meta")


def check_event(document: Document, *, content: bytes, now_micros: int, limits: Limits) -> None:
    """Raise InvalidField if the event breaks a limit or a rule; the parameters are those of `check_session`."""
    found: Faults = []
    get, key = document.get, document["_id"]
    _check_id(found, "session_id", key["session_id"], limits)
    if event_id := key["event_id"]:
        _check_id(found, "event_id", event_id, limits)
    elif "created_at" not in document:
        text = "must be set where event_id is empty, so that a retry can be told from a new event"
        found.append(FieldViolation("created_at", text))
    _check_what_happened(found, document, limits)
    if (created_at := get("created_at")) is not None:
        _check_created_at(found, created_at, now_micros, limits)
    _check_storable(found, content)
    if limits.json_depth_max < JSON_DEPTH_MAX:
        _check_depth(found, "meta", get("meta"), limits)
    if len(content) > limits.meta_bytes_max:
        _check_meta(found, "meta", get("meta"), limits)
    if (value := get("value")) is not None and value["currency_code"] not in CURRENCY_CODES:
        found.append(FieldViolation("value.currency_code", "must be a currency code of ISO 4217, such as EUR"))
    if found:
        raise InvalidField.of(found)


def _check_what_happened(found: Faults, document: Document, limits: Limits) -> None:
    """The event's type, and what it happened to."""
    event_type = document["event_type"]
    if object_id := document.get("object_id"):
        _check_id(found, "object_id", object_id, limits)
    elif event_type == DEFAULT_EVENT_TYPE:
        found.append(FieldViolation("object_id", "must be set for a click"))
    if fault := _event_type_fault(event_type, limits):
        found.append(FieldViolation("event_type", fault))


def _event_type_fault(value: str, limits: Limits) -> str | None:
    if len(value) > limits.event_type_chars_max:
        return f"must have {limits.event_type_chars_max} characters at most"
    return None if value.strip() else "must not be blank"


def check_id(path: str, value: str, limits: Limits) -> None:
    """Raise InvalidField if `value` cannot be an id."""
    if fault := _id_fault(value, limits):
        raise InvalidField.at(path, fault)


def check_event_type(path: str, value: str, limits: Limits) -> None:
    """Raise InvalidField if `value` cannot be the type of an event."""
    if fault := _event_type_fault(value, limits) or text_fault(value):
        raise InvalidField.at(path, fault)


def check_not_negative(**values: int | None) -> None:
    """Raise InvalidField for each named value that is below 0."""
    found = [FieldViolation(name, "must not be negative") for name, value in values.items() if value and value < 0]
    if found:
        raise InvalidField.of(found)
