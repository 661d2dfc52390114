"""What a value in a session or an event may be: text, JSON, a moment in time. Pure; used by the models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime
from pydantic_core import PydanticCustomError

INTEGER_MAX = 2**53
"""Whole numbers up to this stay exact as the doubles that a protobuf Struct holds (IEEE 754)."""

BEYOND_EXACT = "a whole number beyond 2^53 would be rounded; send it as text"

INT32_MAX = 2**31 - 1
"""What an int32 holds: a field such as `events_limit`, or an option of gRPC's."""

JSON_DEPTH_MAX = 32
"""Levels of nesting. Protobuf parsers stop at 100 nested messages, and an object in an object costs three."""

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""What a message may have, in either direction, unless the server is set otherwise."""
MESSAGE_BYTES_LEAST, MESSAGE_BYTES_MOST = 64 * 1024, 2**30 - 1
"""How it may be set."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros_from_datetime(moment: datetime) -> int:
    """Microseconds since 1970, exact (a float of seconds is not)."""
    return (moment - EPOCH) // _MICROSECOND


def datetime_from_micros(micros: int) -> datetime:
    """The moment that many microseconds after 1970, in UTC."""
    return EPOCH + timedelta(microseconds=micros)


def text_fault(text: str) -> str | None:
    """Say what keeps `text` from being stored and sent, or None."""
    if "\x00" in text:
        return "must not contain a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "must be valid Unicode, without lone surrogates"
    return None


def _check_text(text: str) -> str:
    if fault := text_fault(text):
        raise PydanticCustomError("text", "{fault}", {"fault": fault})
    return text


Path = tuple["Path | None", str | int] | None
"""A place inside a value: (the place around it, the key or index). Made into text only when something is wrong."""


def path_text(path: Path, base: str = "") -> str:
    """The place as text: `base.meta.items[3]`."""
    if path is None:
        return base
    around, step = path
    before = path_text(around, base)
    if isinstance(step, int):
        return f"{before}[{step}]"
    return f"{before}.{step}" if before else step


def _fault(path: Path, fault: str) -> PydanticCustomError:
    return PydanticCustomError("json", "{fault}", {"path": path_text(path), "fault": fault})


def _json(value: Any, path: Path, depth: int) -> Any:
    """`value` as JSON has it: whole numbers as int, tuples as lists, and of these types themselves, not of others that
    are derived from them (numpy's floats are); anything that JSON lacks is refused.
    """
    kind = type(value)
    if kind is str:
        if fault := text_fault(value):
            raise _fault(path, fault)
        return value
    if value is None or kind is bool:
        return value
    if isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise _fault(path, BEYOND_EXACT)
        return int(value)
    if isinstance(value, float):
        return _json_float(value, path)
    if depth > JSON_DEPTH_MAX:
        raise _fault(path, f"must not be nested deeper than {JSON_DEPTH_MAX} levels")
    if kind is dict or isinstance(value, Mapping):
        return {_json_key(key, path): _json(item, (path, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item, (path, place), depth + 1) for place, item in enumerate(value)]
    raise _fault(path, f"must be JSON (null, true, false, number, text, list, object), not {kind.__name__}")


def json_depth(value: Any) -> int:
    """How many levels of objects and lists a JSON value has; 0 for one that is neither."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(json_depth, value.values() if isinstance(value, dict) else value), default=0)


def _json_float(value: float, path: Path) -> int | float:
    if not isfinite(value):
        raise _fault(path, "must be a finite number")
    return int(value) if value.is_integer() and -INTEGER_MAX <= value <= INTEGER_MAX else float(value)


def _json_key(key: object, path: Path) -> str:
    if not isinstance(key, str):
        raise _fault(path, f"must have text as keys, not {type(key).__name__}")
    if fault := text_fault(key):
        raise _fault(path, f"has a key that {fault}")
    return key


def _json_object(value: dict[Any, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = _json(value, None, 1)
    return checked


def _search_query(value: Any) -> Any:
    if value is None or isinstance(value, str | Mapping | list | tuple):
        return _json(value, None, 1)
    raise _fault(None, f"must be text or a structured query (an object or a list), not {type(value).__name__}")


Text = Annotated[str, AfterValidator(_check_text)]
"""Text that every store and every language can hold."""

JsonObject = Annotated[dict[Any, Any], AfterValidator(_json_object)]
"""A JSON object. Whole numbers are integers; those beyond 2^53 are refused rather than rounded."""

SearchQuery = Annotated[Any, AfterValidator(_search_query)]
"""Text, a structured query as an object or a list, or None."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("moment", "must lie between the years 1 and 9999 in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A moment in time to the microsecond, in UTC. A time without a zone is refused."""
