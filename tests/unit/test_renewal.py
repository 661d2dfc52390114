"""When connections to a member are made anew: by what PyMongo tells of the member."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
from pymongo.errors import NotPrimaryError
from pymongo.hello import Hello
from pymongo.monitoring import ServerDescriptionChangedEvent
from pymongo.server_description import ServerDescription

from clickstream_server.storage.mongo.renewal import Renewal

MEMBER = ("a", 27017)
SAYS = {"ok": 1, "setName": "rs", "maxWireVersion": 21, "minWireVersion": 0}
STATES = {
    "new": ServerDescription(MEMBER),
    "lost": ServerDescription(MEMBER, error=NotPrimaryError("recovering", {"code": 13436})),
    "recovering": ServerDescription(MEMBER, Hello(SAYS)),
    "secondary": ServerDescription(MEMBER, Hello({**SAYS, "secondary": True})),
    "primary": ServerDescription(MEMBER, Hello({**SAYS, "isWritablePrimary": True})),
}


@pytest.mark.parametrize(
    ("states", "renewals"),
    [
        ("new recovering secondary", 1),
        ("new recovering lost secondary", 1),
        ("new recovering lost recovering lost primary secondary", 1),
        ("new recovering primary lost recovering lost primary", 2),
        ("new secondary primary lost primary", 0),
        ("new lost secondary", 0),
    ],
)
def test_once_a_member_can_be_read_again(states: str, renewals: int) -> None:
    """Once for each time that it recovered, also where an error made PyMongo forget meanwhile that it did."""
    made_anew: list[bool] = []
    pool = SimpleNamespace(reset_without_pause=lambda: made_anew.append(True))
    renewal = Renewal()
    renewal.client = SimpleNamespace(_topology=SimpleNamespace(_servers={MEMBER: SimpleNamespace(pool=pool)}))
    for before, after in pairwise(STATES[name] for name in states.split()):
        renewal.description_changed(ServerDescriptionChangedEvent(before, after, MEMBER, None))  # type: ignore[arg-type]

    assert renewals == len(made_anew)
