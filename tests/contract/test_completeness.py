"""Nothing is forgotten: every RPC, every error and every model has all of its parts."""

from __future__ import annotations

import ast
import inspect
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from grpc import StatusCode
from pydantic import BaseModel
from sent import document_of

import clickstream
from clickstream import (
    client,
    credentials,
    dao,
    errors,
    event_stream,
    export,
    forks,
    models,
    sync_client,
    sync_event_stream,
    transfer,
    wire,
)
from clickstream.v1 import clickstream_service_pb2, transfer_service_pb2
from clickstream.values import micros_from_datetime
from clickstream_server.message_dao import MessageDao
from clickstream_server.servicer import ClickstreamServicer
from clickstream_server.storage.mongo.dao import MongoClickstreamDao
from clickstream_server.storage.mongo.events import FoundEvents
from clickstream_server.storage.mongo.to_pb import registered_message, session_message
from clickstream_server.transfer_servicer import TransferServicer

RPCS = [method.name for method in clickstream_service_pb2.DESCRIPTOR.services_by_name["ClickstreamService"].methods]
TRANSFER_RPCS = [method.name for method in transfer_service_pb2.DESCRIPTOR.services_by_name["TransferService"].methods]
NOON = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)


PUBLIC_MODULES = (
    client,
    credentials,
    dao,
    errors,
    event_stream,
    export,
    forks,
    models,
    sync_client,
    sync_event_stream,
    transfer,
)


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def calls_on(fixture: str) -> set[str]:
    """The names of the methods that the tests of this folder call on the fixture of this name."""
    return {
        node.func.attr
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == fixture
    }


# --- RPCs -----------------------------------------------------------------------------------------------------------


def test_there_are_ten_rpcs() -> None:
    """The loops below have something to loop over: the contract's ten RPCs."""
    assert 10 == len(RPCS)


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_has_all_of_its_parts(rpc: str) -> None:
    """An RPC has a servicer method, a method of the interface that the client implements, and a contract test."""
    method = snake_case(rpc)

    assert rpc in vars(ClickstreamServicer)
    assert method in vars(clickstream.ClickstreamDao)
    assert method in calls_on("dao")
    implemented = "get_batch_pages" if method == "get_batch_sessions" else method  # the one is written on the other
    assert implemented in vars(clickstream.ClickstreamClient)
    assert implemented in clickstream.ClickstreamDao.__abstractmethods__


def test_the_interface_holds_nothing_else() -> None:
    """What the interface declares is the RPCs and the pages that reading a batch is built on."""
    declared = {name for name, member in vars(clickstream.ClickstreamDao).items() if inspect.isfunction(member)}

    assert {snake_case(rpc) for rpc in RPCS} | {"get_batch_pages"} == declared


def test_there_are_three_bulk_rpcs() -> None:
    """The loops over the bulk service have something to loop over: the contract's three RPCs."""
    assert 3 == len(TRANSFER_RPCS)


@pytest.mark.parametrize("rpc", TRANSFER_RPCS)
def test_every_bulk_rpc_has_all_of_its_parts(rpc: str) -> None:
    """An RPC of the bulk service has a servicer method, a method that client and storage implement, and a test."""
    method = snake_case(rpc)

    assert rpc in vars(TransferServicer)
    assert method in clickstream.TransferDao.__abstractmethods__
    assert method in vars(clickstream.ClickstreamClient)
    assert method in vars(MessageDao) | vars(MongoClickstreamDao)
    assert method in calls_on("transfer")


def test_the_bulk_interface_holds_nothing_else() -> None:
    """What the bulk interface declares is the RPCs."""
    declared = {name for name, member in vars(clickstream.TransferDao).items() if inspect.isfunction(member)}

    assert {snake_case(rpc) for rpc in TRANSFER_RPCS} == declared


@pytest.mark.parametrize("client", [clickstream.ClickstreamClient, clickstream.SyncClickstreamClient])
def test_the_clients_hold_nothing_else(client: type) -> None:
    """What a client has in public is both interfaces, the event stream, and what opens, closes and describes it."""
    both = set(vars(clickstream.ClickstreamDao)) | set(vars(clickstream.TransferDao))
    got = {name for name in dir(client) if not name.startswith("_")} - both

    assert {"close", "event_stream"} == got


@pytest.mark.parametrize("rpc", [*RPCS, *TRANSFER_RPCS])
def test_every_rpc_has_messages_of_its_own(rpc: str) -> None:
    """An RPC takes and gives messages of its name, so that each can grow without the others."""
    service = (
        transfer_service_pb2.DESCRIPTOR.services_by_name["TransferService"]
        if rpc in TRANSFER_RPCS
        else clickstream_service_pb2.DESCRIPTOR.services_by_name["ClickstreamService"]
    )
    method = service.methods_by_name[rpc]

    assert (f"{rpc}Request", f"{rpc}Response") == (method.input_type.name, method.output_type.name)


# --- errors ---------------------------------------------------------------------------------------------------------

CONTRACT_REASONS = {
    StatusCode.INVALID_ARGUMENT: {"INVALID_FIELD"},
    StatusCode.NOT_FOUND: {"SESSION_NOT_FOUND", "BATCH_NOT_FOUND", "NO_COLLECTING_BATCH"},
    StatusCode.FAILED_PRECONDITION: {"BATCH_ALREADY_COLLECTING", "BATCH_STATUS_MISMATCH"},
    StatusCode.RESOURCE_EXHAUSTED: {"OVERLOADED", "MESSAGE_TOO_LARGE"},
    StatusCode.UNAVAILABLE: {"STORAGE_UNAVAILABLE", "SHUTTING_DOWN"},
    StatusCode.UNAUTHENTICATED: {"MISSING_CREDENTIALS", "INVALID_CREDENTIALS"},
    StatusCode.PERMISSION_DENIED: {"METHOD_NOT_ALLOWED"},
    StatusCode.ABORTED: {"FAILURE_RATIO_EXCEEDED"},  # the contract names the code alone
    StatusCode.DATA_LOSS: set(),  # raised by the client only
    StatusCode.INTERNAL: {"INTERNAL"},
    StatusCode.DEADLINE_EXCEEDED: set(),
    StatusCode.CANCELLED: set(),
}


def test_the_errors_are_the_contracts() -> None:
    """The codes and reasons are those of the contract, no more and no fewer."""
    found: dict[StatusCode, set[str]] = {}
    for code, reason in errors.BY_STATUS:
        found.setdefault(code, set()).update({reason} - {""})

    assert CONTRACT_REASONS == found


def test_no_two_errors_share_a_row() -> None:
    """Each error class has a row of its own in the table."""
    classes = {
        member
        for member in vars(errors).values()
        if inspect.isclass(member) and issubclass(member, errors.ClickstreamError)
    }

    assert classes - {errors.ClickstreamError} == set(errors.BY_STATUS.values())
    assert len(errors.BY_STATUS) == len(set(errors.BY_STATUS.values()))


@pytest.mark.parametrize("error_class", errors.BY_STATUS.values(), ids=lambda error_class: error_class.__name__)
def test_every_error_comes_back(error_class: type[errors.ClickstreamError]) -> None:
    """An error made into a status and back is the same error with all that it says."""
    sent = error_class(
        "größer ✓",
        violations=[errors.FieldViolation("meta.a[1]", "must be ö"), errors.FieldViolation("b", "no")],
        resource_name="s-1",
        retry_after_s=1.5,
        error_id="abc",
    )
    status = errors.to_status(sent)
    got = errors.from_status(sent.code, status.message, status.SerializeToString())

    assert error_class is type(got)
    assert (sent.code, sent.message, sent.violations, sent.retry_after_s, sent.error_id) == (
        got.code,
        got.message,
        got.violations,
        got.retry_after_s,
        got.error_id,
    )
    assert (sent.resource_name if error_class.resource_type else "") == got.resource_name


@pytest.mark.parametrize("details", [None, b"", b"\xff\xff", b"nonsense"])
def test_an_error_without_details_is_its_codes(details: bytes | None) -> None:
    """A status that a proxy made, without details or with nonsense, arrives as the general error of its code."""
    assert errors.Unavailable is type(errors.from_status(StatusCode.UNAVAILABLE, "no route", details))
    assert StatusCode.UNIMPLEMENTED is errors.from_status(StatusCode.UNIMPLEMENTED, "no", details).code


def test_an_error_fits_into_the_metadata() -> None:
    """However much is wrong, the error with its message stays below gRPC's limit of 8 KB, in base64, too."""
    violations = [errors.FieldViolation("\U0001f600" * 500, "\U0001f600" * 500) for _ in range(100)]
    status = errors.to_status(errors.InvalidField.of(violations))
    details = len(b64encode(status.SerializeToString()))
    message = len(quote(status.message))  # gRPC sends it percent-encoded

    assert details + message < 8 * 1024 - 256  # the other headers and their names


# --- models ---------------------------------------------------------------------------------------------------------

SESSION = models.Session(
    session_id="s",
    search_query={"text": "lamp"},
    search_results=(models.SearchResultItem(object_id="o", rank=0.0, meta={"a": [1, None]}),),
    search_meta={"a": 1},
    payload_filter={"$and": []},
    sort_by=models.SortBy(field="f", order=models.Order.DESC, force_not_payload=True),
    user_id="u",
    created_at=NOON,
    is_irrelevant=True,
    is_payload_search=True,
)
EVENT = models.SessionEvent(
    event_id="e",
    session_id="s",
    object_id="o",
    event_type="purchase",
    created_at=NOON,
    meta={"a": {"b": 1.5}},
    value=models.Money(currency_code="EUR", amount=Decimal("1.50")),
)
PLACE: dict[str, Any] = {"session": SESSION, "batch_id": "b", "session_number": 2**40, "registered_at": NOON}
BATCH = models.SessionBatch(
    batch_id="b",
    status=models.SessionBatchStatus.ARCHIVED,
    session_counter=2**40,
    created_at=NOON,
    release_id="r",
    released_at=NOON,
    updated_at=NOON,
)
FAILURE = models.ItemFailure(
    index=3, id="e", outcome=models.WriteOutcome.CONFLICT, reason="CONTENT_CONFLICT", message="no", retryable=True
)


def as_stored_and_read(found: models.SessionWithEvents) -> Any:
    """The message that readers get once this is stored: a server makes it of the documents."""
    events = FoundEvents(list(map(document_of, found.events)), found.event_count)
    return session_message(registered_document(found), events)


def as_registered(found: models.RegisteredSession) -> Any:
    """The message that writers get."""
    return registered_message(registered_document(found))


def registered_document(found: models.RegisteredSession) -> dict[str, Any]:
    place = {"batch_id": found.batch_id, "session_number": found.session_number}
    return document_of(found.session) | place | {"registered_at": micros_from_datetime(found.registered_at)}


EXAMPLES: list[tuple[BaseModel, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (SESSION, wire.session_to_pb, wire.session_from_pb),
    (models.Session(session_id="s"), wire.session_to_pb, wire.session_from_pb),
    (EVENT, wire.event_to_pb, wire.event_from_pb),
    (models.SessionEvent(session_id="s"), wire.event_to_pb, wire.event_from_pb),
    (models.RegisteredSession(**PLACE), as_registered, wire.registered_session_from_pb),
    (
        models.SessionWithEvents(
            **PLACE,
            events=(EVENT, models.SessionEvent(session_id="s", event_id="e", object_id="o", created_at=NOON)),
            event_count=2**40,
        ),
        as_stored_and_read,
        wire.session_with_events_from_pb,
    ),
    (BATCH, wire.batch_to_pb, wire.batch_from_pb),
    (BATCH.model_copy(update={"release_id": None, "released_at": None}), wire.batch_to_pb, wire.batch_from_pb),
    (
        models.PushResult(inserted=1, duplicates=2, conflicts=3, rejected=4, failures=(FAILURE,)),
        wire.push_result_to_pb,
        wire.push_result_from_pb,
    ),
]
ANSWERS = {models.Registration, models.SessionPage, models.BatchList, models.BatchRelease}
"""An RPC's whole answer each, which client and servicer put together: the suite's `client` backend shows them."""


def inside(value: Any) -> Iterator[BaseModel]:
    """The models that this value holds, itself included."""
    if isinstance(value, tuple):
        for item in value:
            yield from inside(item)
    elif isinstance(value, BaseModel):
        yield value
        for _, item in value:
            yield from inside(item)


def public_classes(module: Any) -> dict[str, type]:
    """The classes that the module defines for others."""
    return {
        name: member
        for name, member in vars(module).items()
        if inspect.isclass(member) and member.__module__ == module.__name__ and not name.startswith("_")
    }


@pytest.mark.parametrize(("example", "to_pb", "from_pb"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_every_model_comes_back(example: BaseModel, to_pb: Callable[[Any], Any], from_pb: Callable[[Any], Any]) -> None:
    """A model made into a message, sent as bytes and read is the same model."""
    message = to_pb(example)

    assert example == from_pb(type(message).FromString(message.SerializeToString()))


def test_no_model_is_left_out() -> None:
    """Every model stands in a round trip above, with each of its fields set in one of them."""
    found = [model for example, _, _ in EXAMPLES for model in inside(example)]
    expected = {member for member in public_classes(models).values() if issubclass(member, BaseModel)}
    unset = {
        f"{kind.__name__}.{name}"
        for kind in expected - ANSWERS
        for name, field in kind.model_fields.items()
        if all(getattr(one, name) == field.get_default(call_default_factory=True) for one in found if type(one) is kind)
    }

    assert expected == {type(model) for model in found} | ANSWERS
    assert set() == unset


@pytest.mark.parametrize(
    ("values", "to_pb", "from_pb"),
    [
        (models.SessionBatchStatus, wire.status_to_pb, lambda number: wire.status_from_pb(number, "status")),
        (models.WriteOutcome, wire.outcome_to_pb, wire.outcome_from_pb),
    ],
    ids=["SessionBatchStatus", "WriteOutcome"],
)
def test_every_enum_value_comes_back(values: Any, to_pb: Callable[[Any], Any], from_pb: Callable[[Any], Any]) -> None:
    """Every value of an enum has a number of its own, and an unknown number is refused."""
    numbers = {to_pb(value) for value in values}

    assert len(values) == len(numbers)
    assert list(values) == [from_pb(to_pb(value)) for value in values]
    for number in (0, 99):
        with pytest.raises(errors.InvalidField, match=re.escape(str(number)) if number else "must be|known"):
            from_pb(number)


# --- the package ----------------------------------------------------------------------------------------------------


def test_all_is_complete_and_sorted() -> None:
    """`clickstream.__all__` lists every public class of the package, in order, and each can be imported."""
    public = {name for module in PUBLIC_MODULES for name in public_classes(module)}

    assert sorted(public) == clickstream.__all__
    assert set(clickstream.__all__) <= set(vars(clickstream))
