"""What a connection to MongoDB is made with: the settings and what the URI says itself, without breaking a promise.

The URI counts where it says something, unless a setting was given that says otherwise: then one of them is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pymongo.uri_parser import split_options

ReadConcernName = Literal["majority", "linearizable"]
"""Those that never show what may be rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoOptions:
    """The options of the connection that are settings. `given`: the names of those that were set."""

    max_pool_size: int = 50
    min_pool_size: int = 10
    write_concern: str = "majority"
    read_concern: ReadConcernName = "majority"
    given: frozenset[str] = field(default_factory=frozenset)


_SETTING_OF = {
    "maxPoolSize": "max_pool_size",
    "minPoolSize": "min_pool_size",
    "w": "write_concern",
    "readConcernLevel": "read_concern",
}

_NOTICED_MS = {"connectTimeoutMS": 3000, "heartbeatFrequencyMS": 2000}
"""A member that says nothing for the sum of both is given up, with what was asked of it: it is frozen, or the network
in between drops everything. The driver's defaults make that 30 s; what was asked goes on at the next primary.
"""


def driver_options(uri: str, options: MongoOptions) -> dict[str, Any]:
    """The driver's arguments, which count for more than the URI. Raises ValueError for what cannot be had."""
    query = uri.partition("?")[2]
    in_uri: Mapping[str, Any] = split_options(query, warn=True) if query else {}
    _refuse_what_breaks_promises(in_uri)
    chosen: dict[str, Any] = {}
    for name, setting in _SETTING_OF.items():
        said, value = in_uri.get(name), getattr(options, setting)
        if said is not None and setting in options.given and said != value:
            raise ValueError(f"it says {name}={said}, but CLICKSTREAM_MONGODB_{setting.upper()} is {value}: set one")
        chosen[name] = value if said is None else said
    if "minPoolSize" not in in_uri and "min_pool_size" not in options.given:
        # Who lowers only the maximum need not know of the minimum. (No maximum: 0.)
        chosen["minPoolSize"] = min(chosen["minPoolSize"], chosen["maxPoolSize"] or chosen["minPoolSize"])
    chosen |= {name: most for name, most in _NOTICED_MS.items() if name not in in_uri}
    # Journaled as majority is by default, also where a replica set's configuration says otherwise.
    return chosen | {"journal": True}


def _refuse_what_breaks_promises(in_uri: Mapping[str, Any]) -> None:
    if "w" in in_uri:
        check_write_concern(in_uri["w"])
    if in_uri.get("journal") is False:
        raise ValueError("journal=false would lose what was acknowledged; leave it out")
    if (level := in_uri.get("readConcernLevel", "majority")) not in get_args(ReadConcernName):
        raise ValueError(f"readConcernLevel={level} may show what is lost later; leave it out, or use majority")
    if (preference := in_uri.get("readPreference", "primary")) != "primary":
        raise ValueError(f"readPreference={preference} would read what is out of date; leave it out")
    if "wTimeoutMS" in in_uri:
        raise ValueError("wTimeoutMS has no effect; CLICKSTREAM_STORAGE_TIMEOUT_S bounds every step")


def check_write_concern(concern: str | int) -> None:
    """Raise ValueError unless it is `majority` or a name that the replica set may give a meaning to."""
    if not concern or not str(concern).strip() or str(concern).strip().lstrip("+-").isdigit():
        raise ValueError(
            f"w={concern} would acknowledge what the loss of a member may lose: use majority, or the name of a write "
            "concern of your replica set that includes a majority"
        )
