"""Model <-> protobuf: pure functions in pairs, `x_to_pb` and `x_from_pb`.

`..._from_pb` raises InvalidField, with the field's path, for what a protobuf message can hold and the domain cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ValidationError

from clickstream import models
from clickstream.errors import FieldViolation, InvalidField
from clickstream.v1 import (
    batch_pb2,
    clickstream_service_pb2,
    event_pb2,
    outcome_pb2,
    session_pb2,
    transfer_service_pb2,
)
from clickstream.values import Path, datetime_from_micros, micros_from_datetime, path_text

M = TypeVar("M", bound=BaseModel)

_ORDER_FROM_PB = {
    session_pb2.ORDER_UNSPECIFIED: models.Order.ASC,
    session_pb2.ORDER_ASC: models.Order.ASC,
    session_pb2.ORDER_DESC: models.Order.DESC,
}
_ORDER_TO_PB = {models.Order.ASC: session_pb2.ORDER_ASC, models.Order.DESC: session_pb2.ORDER_DESC}
_STATUS_TO_PB = {
    status: batch_pb2.SessionBatchStatus.Value(f"SESSION_BATCH_STATUS_{status}") for status in models.SessionBatchStatus
}
_STATUS_FROM_PB = {number: status for status, number in _STATUS_TO_PB.items()}
_OUTCOME_TO_PB = {
    outcome: outcome_pb2.WriteOutcome.Value(f"WRITE_OUTCOME_{outcome}") for outcome in models.WriteOutcome
}
_OUTCOME_FROM_PB = {number: outcome for outcome, number in _OUTCOME_TO_PB.items()}


def validated(model: type[M], fields: dict[str, Any]) -> M:
    """The model with these fields, or InvalidField with the paths of those that are wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid_field(error) from None


def invalid_field(error: ValidationError) -> InvalidField:
    """Pydantic's error as the domain's."""
    return InvalidField.of(_violation(found["loc"], found["msg"], found.get("ctx")) for found in error.errors())


def _violation(location: tuple[int | str, ...], message: str, context: dict[str, Any] | None) -> FieldViolation:
    path: Path = None
    for step in location:
        path = (path, step)
    inner = (context or {}).get("path") or ""
    separator = "." if inner and not inner.startswith("[") else ""
    return FieldViolation(f"{path_text(path)}{separator}{inner}", message.removeprefix("Value error, "))


# --- values ---------------------------------------------------------------------------------------------------------


def moment_to_pb(micros: int) -> Timestamp:
    """Microseconds since 1970 as a Timestamp."""
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def optional_moment_to_pb(moment: Any) -> Timestamp | None:
    return None if moment is None else moment_to_pb(micros_from_datetime(moment))


def moment_from_pb(message: Any, field: str) -> Any:
    """The field's moment cut to whole microseconds, or None if it is unset; a Timestamp has the years 1 to 9999."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    if not -62_135_596_800 <= stamp.seconds <= 253_402_300_799:
        raise InvalidField.at(field, "must lie between the years 1 and 9999")
    if not 0 <= stamp.nanos <= 999_999_999:
        raise InvalidField.at(field, "must have between 0 and 999,999,999 nanos")
    return datetime_from_micros(stamp.seconds * 1_000_000 + stamp.nanos // 1000)


def _value_to_pb(value: Any) -> struct_pb2.Value | None:
    if value is None:
        return None
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, dict):
        return struct_pb2.Value(struct_value=value)  # type: ignore[arg-type]  # it takes a plain dict
    return struct_pb2.Value(list_value=value)  # and a plain list


def _value_from_pb(value: struct_pb2.Value, path: Path) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return value.number_value
    if kind == "struct_value":
        return _struct_from_pb(value.struct_value, path)
    if kind == "list_value":
        return [_value_from_pb(item, (path, place)) for place, item in enumerate(value.list_value.values)]
    if kind == "bool_value":
        return value.bool_value
    if kind == "null_value":
        return None
    raise InvalidField.at(path_text(path), "is a Value of no kind; null is null_value")


def _struct_from_pb(struct: struct_pb2.Struct, path: Path) -> dict[str, Any]:
    fields = struct.fields  # its items() is the slow one of collections.abc
    return {key: _value_from_pb(fields[key], (path, key)) for key in fields}


# --- sessions -------------------------------------------------------------------------------------------------------


def session_to_pb(session: models.Session) -> session_pb2.Session:
    return session_pb2.Session(
        session_id=session.session_id,
        search_query=_value_to_pb(session.search_query),
        search_results=[
            {"object_id": item.object_id, "rank": item.rank, "meta": item.meta or None}
            for item in session.search_results
        ],  # the constructor takes plain dicts, and is three times faster so
        search_meta=session.search_meta or None,
        payload_filter=session.payload_filter or None,
        sort_by=None if session.sort_by is None else _sort_by_to_pb(session.sort_by),
        user_id=session.user_id,
        created_at=optional_moment_to_pb(session.created_at),
        is_irrelevant=session.is_irrelevant,
        is_payload_search=session.is_payload_search,
    )


def session_from_pb(message: session_pb2.Session) -> models.Session:
    return validated(models.Session, _session_fields(message))


def _session_fields(message: session_pb2.Session) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "session_id": message.session_id,
        "search_results": [_result_fields(item, place) for place, item in enumerate(message.search_results)],
        "created_at": moment_from_pb(message, "created_at"),
        "is_irrelevant": message.is_irrelevant,
        "is_payload_search": message.is_payload_search,
    }
    if message.HasField("search_query"):
        fields["search_query"] = _value_from_pb(message.search_query, (None, "search_query"))
    if message.HasField("search_meta"):
        fields["search_meta"] = _struct_from_pb(message.search_meta, (None, "search_meta"))
    if message.HasField("payload_filter"):
        fields["payload_filter"] = _struct_from_pb(message.payload_filter, (None, "payload_filter"))
    if message.HasField("sort_by"):
        fields["sort_by"] = _sort_by_fields(message.sort_by)
    if message.HasField("user_id"):
        fields["user_id"] = message.user_id
    return fields


def _result_fields(item: session_pb2.SearchResultItem, place: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"object_id": item.object_id}
    if item.HasField("rank"):
        fields["rank"] = item.rank
    if item.HasField("meta"):
        fields["meta"] = _struct_from_pb(item.meta, (((None, "search_results"), place), "meta"))
    return fields


def _sort_by_to_pb(sort_by: models.SortBy) -> session_pb2.SortBy:
    return session_pb2.SortBy(
        field=sort_by.field, order=_ORDER_TO_PB[sort_by.order], force_not_payload=sort_by.force_not_payload
    )


def _sort_by_fields(message: session_pb2.SortBy) -> dict[str, Any]:
    if message.order not in _ORDER_FROM_PB:
        raise InvalidField.at("sort_by.order", f"{message.order} is not a known Order")
    return {
        "field": message.field,
        "order": _ORDER_FROM_PB[message.order],
        "force_not_payload": message.force_not_payload,
    }


# --- events ---------------------------------------------------------------------------------------------------------


def event_to_pb(event: models.SessionEvent) -> event_pb2.SessionEvent:
    value = event.value
    return event_pb2.SessionEvent(
        event_id=event.event_id,
        session_id=event.session_id,
        object_id=event.object_id,
        event_type=event.event_type,
        created_at=optional_moment_to_pb(event.created_at),
        meta=event.meta or None,
        value=None if value is None else event_pb2.Money(currency_code=value.currency_code, amount=value.text),
    )


def event_from_pb(message: event_pb2.SessionEvent) -> models.SessionEvent:
    return validated(models.SessionEvent, _event_fields(message))


def _event_fields(message: event_pb2.SessionEvent) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event_id": message.event_id,
        "session_id": message.session_id,
        "object_id": message.object_id,
        "event_type": message.event_type,
        "created_at": moment_from_pb(message, "created_at"),
    }
    if message.HasField("meta"):
        fields["meta"] = _struct_from_pb(message.meta, (None, "meta"))
    if message.HasField("value"):
        fields["value"] = {"currency_code": message.value.currency_code, "amount": message.value.amount}
    return fields


def events_from_pb(messages: Iterable[event_pb2.SessionEvent]) -> list[models.SessionEvent | InvalidField]:
    """The events; one that cannot be read stands as its error, at its place."""
    return [or_error(event_from_pb, message, message.event_id) for message in messages]


def or_error(read: Callable[[Any], M], message: Any, item_id: str) -> M | InvalidField:
    """What the message says or, if it cannot be read, the error with the id that it has."""
    try:
        return read(message)
    except InvalidField as error:
        error.item_id = item_id
        return error


# --- what the server adds -------------------------------------------------------------------------------------------


def registered_session_to_pb(registered: models.RegisteredSession) -> session_pb2.RegisteredSession:
    return session_pb2.RegisteredSession(
        session=session_to_pb(registered.session),
        batch_id=registered.batch_id,
        session_number=registered.session_number,
        registered_at=optional_moment_to_pb(registered.registered_at),
    )


def _registered_fields(message: session_pb2.RegisteredSession | session_pb2.SessionWithEvents) -> dict[str, Any]:
    return {
        "session": _session_fields(message.session),
        "batch_id": message.batch_id,
        "session_number": message.session_number,
        "registered_at": moment_from_pb(message, "registered_at"),
    }


def registered_session_from_pb(message: session_pb2.RegisteredSession) -> models.RegisteredSession:
    return validated(models.RegisteredSession, _registered_fields(message))


def session_with_events_to_pb(found: models.SessionWithEvents) -> session_pb2.SessionWithEvents:
    return session_pb2.SessionWithEvents(
        session=session_to_pb(found.session),
        batch_id=found.batch_id,
        session_number=found.session_number,
        registered_at=optional_moment_to_pb(found.registered_at),
        events=[event_to_pb(event) for event in found.events],
        event_count=found.event_count,
    )


def session_with_events_from_pb(message: session_pb2.SessionWithEvents) -> models.SessionWithEvents:
    fields = _registered_fields(message)
    fields["events"] = [_event_fields(event) for event in message.events]
    fields["event_count"] = message.event_count
    return validated(models.SessionWithEvents, fields)


# --- batches and outcomes -------------------------------------------------------------------------------------------


def status_to_pb(status: models.SessionBatchStatus) -> Any:
    return _STATUS_TO_PB[status]


def status_from_pb(number: int, path: str) -> models.SessionBatchStatus:
    if number not in _STATUS_FROM_PB:
        problem = f"{number} is not a known SessionBatchStatus" if number else "must be set to a status"
        raise InvalidField.at(path, problem)
    return _STATUS_FROM_PB[number]


def batch_to_pb(batch: models.SessionBatch) -> batch_pb2.SessionBatch:
    return batch_pb2.SessionBatch(
        batch_id=batch.batch_id,
        status=status_to_pb(batch.status),
        session_counter=batch.session_counter,
        created_at=optional_moment_to_pb(batch.created_at),
        release_id=batch.release_id or "",
        released_at=optional_moment_to_pb(batch.released_at),
        updated_at=optional_moment_to_pb(batch.updated_at),
    )


def batch_from_pb(message: batch_pb2.SessionBatch) -> models.SessionBatch:
    return validated(
        models.SessionBatch,
        {
            "batch_id": message.batch_id,
            "status": status_from_pb(message.status, "status"),
            "session_counter": message.session_counter,
            "created_at": moment_from_pb(message, "created_at"),
            "release_id": message.release_id or None,
            "released_at": moment_from_pb(message, "released_at"),
            "updated_at": moment_from_pb(message, "updated_at"),
        },
    )


def outcome_to_pb(outcome: models.WriteOutcome) -> Any:
    return _OUTCOME_TO_PB[outcome]


def outcome_from_pb(number: int) -> models.WriteOutcome:
    if number not in _OUTCOME_FROM_PB:
        raise InvalidField.at("outcome", f"{number} is not a known WriteOutcome")
    return _OUTCOME_FROM_PB[number]


def item_failure_to_pb(failure: models.ItemFailure) -> outcome_pb2.ItemFailure:
    return outcome_pb2.ItemFailure(
        index=failure.index,
        id=failure.id,
        outcome=outcome_to_pb(failure.outcome),
        reason=failure.reason,
        message=failure.message,
        retryable=failure.retryable,
    )


def item_failure_from_pb(message: outcome_pb2.ItemFailure) -> models.ItemFailure:
    return models.ItemFailure(
        index=message.index,
        id=message.id,
        outcome=outcome_from_pb(message.outcome),
        reason=message.reason,
        message=message.message,
        retryable=message.retryable,
    )


def push_result_fields(result: models.PushResult) -> dict[str, Any]:
    """What the answers of PushEvents and StreamEvents share."""
    return {
        "inserted": result.inserted,
        "duplicates": result.duplicates,
        "conflicts": result.conflicts,
        "rejected": result.rejected,
        "failures": [item_failure_to_pb(failure) for failure in result.failures],
    }


def push_result_to_pb(result: models.PushResult) -> clickstream_service_pb2.PushEventsResponse:
    return clickstream_service_pb2.PushEventsResponse(**push_result_fields(result))


def push_result_from_pb(
    message: clickstream_service_pb2.PushEventsResponse | transfer_service_pb2.StreamEventsResponse,
) -> models.PushResult:
    return models.PushResult(
        inserted=message.inserted,
        duplicates=message.duplicates,
        conflicts=message.conflicts,
        rejected=message.rejected,
        failures=tuple(map(item_failure_from_pb, message.failures)),
    )
