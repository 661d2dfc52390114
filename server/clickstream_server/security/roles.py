"""What each role may do: one table, method -> roles."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from clickstream.channel import SERVICE, TRANSFER_SERVICE


class Role(StrEnum):
    """What a token is for. One may have several."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    OPERATOR = "operator"
    ADMIN = "admin"


ANY = frozenset(Role)
READERS = frozenset({Role.CONSUMER, Role.OPERATOR, Role.ADMIN})
"""Who may read sessions, over the API and on the page."""
_PRODUCERS = frozenset({Role.PRODUCER, Role.ADMIN})
_CONSUMERS = frozenset({Role.CONSUMER, Role.ADMIN})
_OPERATORS = frozenset({Role.OPERATOR, Role.ADMIN})

ROLES: dict[str, frozenset[Role]] = {
    f"/{SERVICE}/RegisterSession": _PRODUCERS,
    f"/{SERVICE}/UpdateSession": _PRODUCERS,
    f"/{SERVICE}/PushEvents": _PRODUCERS,
    # It changes a session, as UpdateSession does: a training job's token must not. Operators clean up after bots.
    f"/{SERVICE}/MarkSessionIrrelevant": _PRODUCERS | _OPERATORS,
    f"/{SERVICE}/GetSession": READERS,
    f"/{SERVICE}/GetBatchSessions": READERS,
    f"/{SERVICE}/GetBatch": READERS,
    f"/{SERVICE}/ListBatches": READERS,
    f"/{SERVICE}/ReleaseBatch": _OPERATORS,
    f"/{SERVICE}/UpdateBatchStatus": _OPERATORS,
    f"/{TRANSFER_SERVICE}/StreamEvents": _PRODUCERS,
    f"/{TRANSFER_SERVICE}/ImportSessions": _OPERATORS,
    f"/{TRANSFER_SERVICE}/ExportSessions": _CONSUMERS,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ANY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANY,
}
"""Every method of the API stands here, which a test checks."""
OPEN = "/grpc.health.v1.Health/"
"""Health needs no token: probes have none, and it tells nothing but whether the server serves."""
_OTHERS = {"/grpc.channelz.v1.Channelz/": _OPERATORS}


def is_open(method: str) -> bool:
    """Whether anyone may call this method, token or not."""
    return method.startswith(OPEN)


def roles_for(method: str) -> frozenset[Role]:
    """Who may call this method (a full name, as in `/clickstream.v1.ClickstreamService/GetBatch`)."""
    if method in ROLES:
        return ROLES[method]
    return next((roles for prefix, roles in _OTHERS.items() if method.startswith(prefix)), frozenset({Role.ADMIN}))


def named(roles: Collection[Role]) -> str:
    """Roles as a person reads them, in the order of the enumeration."""
    return ", ".join(role for role in Role if role in roles)
