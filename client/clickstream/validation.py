"""Models of what others give, and what is wrong with it: as the domain's error, in words for people."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clickstream.errors import FieldViolation, InvalidField
from clickstream.values import Path, path_text

M = TypeVar("M", bound=BaseModel)

_NUMBER = "must be a number"
_MOMENT = "must be a moment in time, such as 2026-11-21T08:00:00Z"
_OBJECT = "must be an object"
_TEXT = "must be text"
_TRUTH = "must be true or false"
_WHOLE_NUMBER = "must be a whole number"
WORDS = {
    "bool_parsing": _TRUTH,
    "bool_type": _TRUTH,
    "datetime_from_date_parsing": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_type": _MOMENT,
    "dict_type": _OBJECT,
    "enum": "must be {expected}",
    "extra_forbidden": "is not a field of this form",
    "finite_number": "must be a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": "has too many digits",
    "int_type": _WHOLE_NUMBER,
    "invalid_key": "must have text as its name",
    "json_invalid": "Invalid JSON: {error}",
    "missing": "is missing",
    "model_type": _OBJECT,
    "string_type": _TEXT,
    "string_unicode": "must be valid Unicode",
    "timezone_aware": "must say its time zone, such as Z or +01:00",
    "tuple_type": "must be a list",
    "value_error": "{error}",
}
"""What is wrong, by Pydantic's type of error: for people who have never heard of Pydantic. The models' own errors have
their words with them."""


def validated(model: type[M], fields: dict[str, Any]) -> M:
    """The model with these fields, or InvalidField with the paths of those that are wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid_field(error) from None


def invalid_field(error: ValidationError) -> InvalidField:
    """Pydantic's error as the domain's."""
    return InvalidField.of(map(_violation, error.errors()))


def _violation(found: ErrorDetails) -> FieldViolation:
    path: Path = None
    for step in found["loc"]:
        path = (path, step)
    context = found.get("ctx", {})
    inner = context.get("path") or ""
    separator = "." if inner and not inner.startswith("[") else ""
    words = WORDS.get(found["type"])
    return FieldViolation(
        f"{path_text(path)}{separator}{inner}", found["msg"] if words is None else words.format_map(context)
    )
