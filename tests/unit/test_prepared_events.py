"""The events of a request on their way into the storage."""

from __future__ import annotations

from clickstream.v1 import event_pb2
from clickstream_server.limits import Limits
from clickstream_server.storage.mongo.prepared_events import prepare_call
from harness import turns_of_others

EVENTS = 1_000


async def test_others_have_their_turn() -> None:
    """While many large events are prepared, others go on."""
    event = event_pb2.SessionEvent(session_id="s", event_id="e", object_id="o")
    event.meta.update({str(key): {"a": 1, "b": None} for key in range(300)})
    with turns_of_others() as turns:
        prepared = await prepare_call([event] * EVENTS, Limits())

    assert EVENTS == len(prepared.documents)
    assert turns() > 10  # it takes a hundred times as long as a turn
