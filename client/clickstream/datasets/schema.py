"""The form of an example (see `example.py`) as an Arrow schema."""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]  # it has no types

_MOMENT = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


RESULT = pa.struct(
    [
        _required("object_id", pa.string()),
        pa.field("rank", pa.float64()),
        _required("clicks", pa.int32()),
        pa.field("meta", pa.string()),
    ]
)
ACTION = pa.struct(
    [
        _required("event_id", pa.string()),
        _required("event_type", pa.string()),
        pa.field("object_id", pa.string()),
        pa.field("position", pa.int32()),
        _required("created_at", _MOMENT),
        pa.field("currency_code", pa.string()),
        pa.field("amount", pa.string()),
        pa.field("meta", pa.string()),
    ]
)
EXAMPLE = pa.schema(
    [
        _required("session_id", pa.string()),
        _required("session_number", pa.int64()),
        pa.field("query", pa.string()),
        _required("query_is_json", pa.bool_()),
        pa.field("user_id", pa.string()),
        _required("created_at", _MOMENT),
        _required("results", pa.list_(RESULT)),
        _required("clicks", pa.list_(ACTION)),
        _required("other_events", pa.list_(ACTION)),
        _required("event_count", pa.int64()),
        pa.field("search_meta", pa.string()),
        pa.field("payload_filter", pa.string()),
        pa.field("sort_by", pa.string()),
        _required("is_payload_search", pa.bool_()),
        _required("is_irrelevant", pa.bool_()),
    ]
)
