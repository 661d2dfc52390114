"""Model <-> protobuf: pure functions in pairs, `x_to_pb` and `x_from_pb`.

`..._from_pb` raises InvalidField, with the field's path, for what a protobuf message can hold and the domain cannot.
What clients send (`session_from_pb`, `event_from_pb`) is validated; what a server answers was, and is not validated
again: that would take half of a reader's time.

`write_x` fills an empty message, such as one just added to a list. Where a message has a Struct, that takes two thirds
of the time of a constructor that is given dicts: protobuf makes Structs of them in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel

from clickstream import models
from clickstream.errors import InvalidField
from clickstream.v1 import (
    batch_pb2,
    clickstream_service_pb2,
    event_pb2,
    outcome_pb2,
    session_pb2,
    transfer_service_pb2,
)
from clickstream.validation import validated
from clickstream.wire_values import (
    Fields,
    moment_from_pb,
    optional_moment_fields,
    struct_from_pb,
    value_from_pb,
    write_moment,
    write_struct,
    write_value,
)

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


def _maker(model: type[M]) -> Callable[[Fields], M]:
    """Makes the model of its fields, which must be all of them and of the right types: nothing is checked.

    What `model_construct` does, but for defaults and aliases, in a tenth of its time. All that it makes share one set
    of the names of their fields, which nothing changes: the models are frozen.
    """
    slots = BaseModel.__dict__
    set_fields, set_names, set_extra, set_private = (
        slots[name].__set__
        for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
    )
    new, names = object.__new__, set(model.model_fields)

    def made(fields: Fields) -> M:
        found = new(model)
        set_fields(found, fields)
        set_names(found, names)
        set_extra(found, None)
        set_private(found, None)
        return found

    return made


_result_made = _maker(models.SearchResultItem)
_sort_by_made = _maker(models.SortBy)
_session_made = _maker(models.Session)
_event_made = _maker(models.SessionEvent)
_money_made = _maker(models.Money)
_registered_made = _maker(models.RegisteredSession)
_with_events_made = _maker(models.SessionWithEvents)


_UNWRITABLE = (AttributeError, TypeError, ValueError, KeyError, OverflowError)
"""What protobuf, and what stands here, raise for a value that its field cannot hold."""


def _validated_again(model: M) -> M:
    """The model, made anew of what it holds. Raises InvalidField, with all that is wrong and where it stands.

    `model_copy(update=...)` and a change inside of a dict are not validated by Pydantic.
    """
    return validated(type(model), model.model_dump(warnings=False))


# --- sessions -------------------------------------------------------------------------------------------------------


def order_to_pb(order: models.Order) -> Any:
    return _ORDER_TO_PB[order]


def order_from_pb(number: session_pb2.Order) -> models.Order:
    if number not in _ORDER_FROM_PB:
        raise InvalidField.at("sort_by.order", f"{number} is not a known Order")
    return _ORDER_FROM_PB[number]


def session_to_pb(session: models.Session) -> session_pb2.Session:
    message = session_pb2.Session()
    write_session(message, session)
    return message


def write_session(message: session_pb2.Session, session: models.Session) -> None:
    """Make an empty message this session. Raises InvalidField for one that was changed past its model."""
    try:
        _write_session(message, session)
    except _UNWRITABLE:
        message.Clear()
        _write_session(message, _validated_again(session))


def _write_session(message: session_pb2.Session, session: models.Session) -> None:
    message.session_id = session.session_id
    if session.search_query is not None:
        write_value(message.search_query, session.search_query)
    for item in session.search_results:
        result = message.search_results.add(object_id=item.object_id, rank=item.rank)
        if item.meta:
            write_struct(result.meta, item.meta)
    if session.search_meta:
        write_struct(message.search_meta, session.search_meta)
    if session.payload_filter:
        write_struct(message.payload_filter, session.payload_filter)
    if (sort_by := session.sort_by) is not None:
        message.sort_by.MergeFrom(_sort_by_to_pb(sort_by))
    if session.user_id is not None:
        message.user_id = session.user_id
    if session.created_at is not None:
        write_moment(message.created_at, session.created_at)
    message.is_irrelevant = session.is_irrelevant
    message.is_payload_search = session.is_payload_search


def _sort_by_to_pb(sort_by: models.SortBy) -> session_pb2.SortBy:
    return session_pb2.SortBy(
        field=sort_by.field, order=order_to_pb(sort_by.order), force_not_payload=sort_by.force_not_payload
    )


def session_from_pb(message: session_pb2.Session) -> models.Session:
    """A session as a client sends it."""
    return validated(models.Session, _session_parts(message))


def _stored_session_from_pb(message: session_pb2.Session) -> models.Session:
    """A session as a server answers it."""
    parts = _session_parts(message)
    parts["search_results"] = tuple(map(_result_made, parts["search_results"]))
    if parts["sort_by"] is not None:
        parts["sort_by"] = _sort_by_made(parts["sort_by"])
    return _session_made(parts)


def _session_parts(message: session_pb2.Session) -> Fields:
    """All fields of the model, those that are models as dicts."""
    has = message.HasField
    return {
        "session_id": message.session_id,
        "search_query": value_from_pb(message.search_query, (None, "search_query")) if has("search_query") else None,
        "search_results": [_result_parts(item, place) for place, item in enumerate(message.search_results)],
        "search_meta": struct_from_pb(message.search_meta, (None, "search_meta")) if has("search_meta") else {},
        "payload_filter": struct_from_pb(message.payload_filter, (None, "payload_filter"))
        if has("payload_filter")
        else {},
        "sort_by": _sort_by_parts(message.sort_by) if has("sort_by") else None,
        "user_id": message.user_id if has("user_id") else None,
        "created_at": moment_from_pb(message, "created_at"),
        "is_irrelevant": message.is_irrelevant,
        "is_payload_search": message.is_payload_search,
    }


def _result_parts(item: session_pb2.SearchResultItem, place: int) -> Fields:
    has = item.HasField
    return {
        "object_id": item.object_id,
        "rank": item.rank if has("rank") else None,
        "meta": struct_from_pb(item.meta, (((None, "search_results"), place), "meta")) if has("meta") else {},
    }


def _sort_by_parts(message: session_pb2.SortBy) -> Fields:
    return {
        "field": message.field,
        "order": order_from_pb(message.order),
        "force_not_payload": message.force_not_payload,
    }


# --- events ---------------------------------------------------------------------------------------------------------


def event_to_pb(event: models.SessionEvent) -> event_pb2.SessionEvent:
    message = event_pb2.SessionEvent()
    write_event(message, event)
    return message


def write_event(message: event_pb2.SessionEvent, event: models.SessionEvent) -> None:
    """Make an empty message this event. Raises InvalidField for one that was changed past its model."""
    try:
        _write_event(message, event)
    except _UNWRITABLE:
        message.Clear()
        _write_event(message, _validated_again(event))


def _write_event(message: event_pb2.SessionEvent, event: models.SessionEvent) -> None:
    message.event_id = event.event_id
    message.session_id = event.session_id
    message.object_id = event.object_id
    message.event_type = event.event_type
    if event.created_at is not None:
        write_moment(message.created_at, event.created_at)
    if event.meta:
        write_struct(message.meta, event.meta)
    if (value := event.value) is not None:
        if not isinstance(value.amount, Decimal):
            raise TypeError("an amount must be a Decimal: a float is not exact")
        message.value.currency_code = value.currency_code
        message.value.amount = value.text


def event_from_pb(message: event_pb2.SessionEvent) -> models.SessionEvent:
    """An event as a client sends it."""
    return validated(models.SessionEvent, _event_parts(message))


def _stored_event_from_pb(message: event_pb2.SessionEvent) -> models.SessionEvent:
    """An event as a server answers it."""
    parts = _event_parts(message)
    if parts["value"] is not None:
        parts["value"] = money_from_pb(message.value)
    return _event_made(parts)


def _event_parts(message: event_pb2.SessionEvent) -> Fields:
    """All fields of the model, those that are models as dicts."""
    value = message.value if message.HasField("value") else None
    return {
        "event_id": message.event_id,
        "session_id": message.session_id,
        "object_id": message.object_id,
        "event_type": message.event_type,
        "created_at": moment_from_pb(message, "created_at"),
        "meta": struct_from_pb(message.meta, (None, "meta")) if message.HasField("meta") else {},
        "value": None if value is None else {"currency_code": value.currency_code, "amount": value.amount},
    }


def money_fields(money: models.Money) -> Fields:
    return {"currency_code": money.currency_code, "amount": money.text}


def money_from_pb(message: event_pb2.Money) -> models.Money:
    """What a server answers. A sum may have more digits than an amount that can be stored: it is not checked as one."""
    return _money_made({"currency_code": message.currency_code, "amount": Decimal(message.amount)})


# --- what the server adds -------------------------------------------------------------------------------------------


def registered_session_from_pb(message: session_pb2.RegisteredSession) -> models.RegisteredSession:
    return _registered_made(_registered_parts(message))


def _registered_parts(message: session_pb2.RegisteredSession | session_pb2.SessionWithEvents) -> Fields:
    return {
        "session": _stored_session_from_pb(message.session),
        "batch_id": message.batch_id,
        "session_number": message.session_number,
        "registered_at": moment_from_pb(message, "registered_at"),
    }


def session_with_events_from_pb(message: session_pb2.SessionWithEvents) -> models.SessionWithEvents:
    parts = _registered_parts(message)
    parts["events"] = tuple(map(_stored_event_from_pb, message.events))
    parts["event_count"] = message.event_count
    return _with_events_made(parts)


# --- batches and outcomes -------------------------------------------------------------------------------------------


def status_to_pb(status: models.SessionBatchStatus, path: str = "status") -> Any:
    if status not in _STATUS_TO_PB:
        raise InvalidField.at(path, f"{status!r} is not a known SessionBatchStatus")
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
        created_at=optional_moment_fields(batch.created_at),
        release_id=batch.release_id or "",
        released_at=optional_moment_fields(batch.released_at),
        updated_at=optional_moment_fields(batch.updated_at),
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
