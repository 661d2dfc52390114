"""The storage's walk over a message against the models' own reading of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sent import document_of
from test_messages import EXAMPLES

from clickstream import InvalidField, wire
from clickstream.errors import FieldViolation
from clickstream.v1 import event_pb2, session_pb2
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.from_pb import event_document, session_document
from wire_strategies import right

NOW = 2**52


def violations(read: Callable[[], Any]) -> list[FieldViolation]:
    try:
        read()
    except InvalidField as error:
        return list(error.violations)
    return []


@pytest.mark.parametrize(
    ("kind", "read", "walk"),
    [
        (session_pb2.Session, wire.session_from_pb, session_document),
        (event_pb2.SessionEvent, wire.event_from_pb, event_document),
    ],
    ids=["session", "event"],
)
@settings(deadline=None, max_examples=5 * EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_walk_refuses_what_the_models_refuse(kind: Any, read: Any, walk: Any, data: st.DataObject) -> None:
    """What a model refuses is refused in the same words; what it takes becomes the same document as the model's."""
    good = kind(session_id="s", **({"event_id": "e", "object_id": "o"} if kind is event_pb2.SessionEvent else {}))
    fields = data.draw(st.lists(st.sampled_from(list(kind.DESCRIPTOR.fields)), min_size=1, max_size=2))
    try:
        sent = kind.FromString(b"".join([good.SerializeToString(), *(data.draw(right(field, 0)) for field in fields)]))
    except DecodeError:
        return
    refused = violations(lambda: read(sent))
    found = violations(lambda: walk(sent, now_micros=NOW, limits=Limits()))

    if refused:
        assert refused == found
    elif not found:
        document, _ = walk(sent, now_micros=NOW, limits=Limits())
        assert document_of(read(sent), now_micros=NOW) == document
