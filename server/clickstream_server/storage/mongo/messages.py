"""BSON documents -> protobuf messages: what readers get. Pure; the opposite of `sent.py`.

The constructors take plain dicts, also for the messages and Structs inside, and then all of it but the Structs is done
in C.
"""

from __future__ import annotations

from clickstream import wire
from clickstream.models import Order
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1 import session_pb2
from clickstream.v1 import transfer_service_pb2 as pb_transfer
from clickstream.wire_values import Fields, moment_fields, value_to_pb
from clickstream_server.message_dao import SessionAnswer
from clickstream_server.storage.mongo.documents import Document
from clickstream_server.storage.mongo.events import FoundEvents
from clickstream_server.storage.mongo.paging import FoundSession


def session_message(document: Document, events: FoundEvents) -> session_pb2.SessionWithEvents:
    """A session with its events as readers get it."""
    return session_pb2.SessionWithEvents(**_session_with_events(document, events))


def registered_message(document: Document) -> session_pb2.RegisteredSession:
    """A session as writers get it back."""
    return session_pb2.RegisteredSession(**_registered(document))


def session_answer(found: FoundSession) -> SessionAnswer:
    """A session with its events as an answer to be sent."""
    document, events = found
    answer = pb.GetBatchSessionsResponse(sessions=[_session_with_events(document, events)])
    return SessionAnswer(answer.SerializeToString(), document["session_number"], document["registered_at"])


def exported_answer(found: FoundSession) -> bytes:
    """A session with its events as exports have it, as an answer to be sent."""
    document, events = found
    exported = {
        "session": _session_with_events(document, events),
        "totals": map(wire.money_fields, events.totals),
    }
    return pb_transfer.ExportSessionsResponse(sessions=[exported]).SerializeToString()


def _session_with_events(document: Document, events: FoundEvents) -> Fields:
    return _registered(document) | {"events": list(map(_event, events.documents)), "event_count": events.count}


def _registered(document: Document) -> Fields:
    return {
        "session": _session(document),
        "batch_id": document["batch_id"],
        "session_number": document["session_number"],
        "registered_at": moment_fields(document["registered_at"]),
    }


def _session(document: Document) -> Fields:
    get = document.get
    sort_by = get("sort_by")
    return {
        "session_id": document["_id"],
        "search_query": value_to_pb(get("search_query")),
        "search_results": get("search_results"),  # stored under the message's names
        "search_meta": get("search_meta"),
        "payload_filter": get("payload_filter"),
        "sort_by": None if sort_by is None else sort_by | {"order": wire.order_to_pb(Order(sort_by["order"]))},
        "user_id": get("user_id"),
        "created_at": moment_fields(document["created_at"]),
        "is_irrelevant": get("is_irrelevant", False),
        "is_payload_search": get("is_payload_search", False),
    }


def _event(document: Document) -> Fields:
    get, key, value = document.get, document["_id"], document.get("value")
    return {
        "event_id": key["event_id"],
        "session_id": key["session_id"],
        "object_id": get("object_id"),
        "event_type": document["event_type"],
        "created_at": moment_fields(document["created_at"]),
        "meta": get("meta"),
        "value": None
        if value is None
        else {"currency_code": value["currency_code"], "amount": format(value["amount"].to_decimal(), "f")},
    }
