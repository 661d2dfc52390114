"""What a dry run keeps account of."""

from __future__ import annotations

from contextlib import closing

import pytest

from clickstream import Overloaded
from clickstream_server.storage.mongo.documents import event_key, same_event_content, same_session_content
from clickstream_server.storage.mongo.dry_run import DryRun

A, B = bytes(32), bytes([1]) * 32


def test_what_was_added_is_found_by_its_key() -> None:
    """A session and an event of it are told apart, and the last content under a key is the one that counts."""
    event = {"_id": event_key("s", "e"), "content_hash": B}
    with closing(DryRun()) as dry_run:
        dry_run.add([{"_id": "s", "content_hash": A}], [event])
        dry_run.add([{"_id": "t", "content_hash": A}, {"_id": "t", "content_hash": B}])
        sessions = dry_run.sessions(["s", "t", "e", "u", "se"])
        events = dry_run.events([event, {"_id": event_key("s", "s")}, {"_id": event_key("t", "e")}])

    assert {"s": (True, False), "t": (False, True)} == {
        name: (same_session_content(document, A), same_session_content(document, B))
        for name, document in sessions.items()
    }
    assert {("s", "e"): (False, True)} == {
        key: (same_event_content(document, A), same_event_content(document, B)) for key, document in events.items()
    }


def test_past_its_bound_it_says_so() -> None:
    """More than is kept account of ends the dry run with a clear error, instead of a wrong account."""
    with closing(DryRun(keys_max=3)) as dry_run:
        dry_run.add([{"_id": str(number), "content_hash": A} for number in range(3)])
        with pytest.raises(Overloaded, match="try it in parts"):
            dry_run.add([{"_id": "3", "content_hash": A}])
