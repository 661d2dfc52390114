"""The forms that an export can have: JSON Lines, CSV of events, Parquet."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from clickstream.export import ExportAccount, ExportedSession
from clickstream_server.bulk import jsonl
from clickstream_server.bulk.outputs import Output
from clickstream_server.failures import StartFailure

CSV_COLUMNS = (
    *("session_id", "search_query", "event_id", "event_type", "object_id", "position"),
    *("created_at", "currency_code", "amount", "meta"),
)
_PLACE = ("batch_id", "session_number", "registered_at")
_GROUP_SESSIONS = 10_000
_GROUP_PAGES = 256  # of about 256 KiB each as they come: sessions may be large


class Writer(ABC):
    """Writes sessions to an output, in one form."""

    def __init__(self, output: Output, *, with_place: bool) -> None:
        self.output = output
        self.with_place = with_place

    def begin(self) -> None:  # noqa: B027  # nothing is a good default
        """Write what stands before the first session. Not called where an export is taken up again."""

    @abstractmethod
    def write(self, sessions: Sequence[ExportedSession]) -> None: ...

    def finish(self, account: ExportAccount) -> str:  # noqa: ARG002  # for those that write a trailer
        """Write what stands behind the last session; return the digest, in hexadecimal."""
        return self.output.sha256.hexdigest()


class JsonLines(Writer):
    """See `clickstream_server.bulk.jsonl`."""

    def write(self, sessions: Sequence[ExportedSession]) -> None:
        self.output.write(b"".join(jsonl.line_from_session(each, with_place=self.with_place) for each in sessions))

    def finish(self, account: ExportAccount) -> str:
        digest = self.output.sha256.hexdigest()
        self.output.write(jsonl.line_from_trailer(account, digest))
        return digest


class Csv(Writer):
    """One event a row. `position`: the place of the object in the results shown, from 0; empty if it is not there."""

    def begin(self) -> None:
        self._write([[*CSV_COLUMNS, *(_PLACE if self.with_place else ())]])

    def write(self, sessions: Sequence[ExportedSession]) -> None:
        self._write([row for each in sessions for row in self._rows(each)])

    def _rows(self, exported: ExportedSession) -> list[list[Any]]:
        found = exported.session
        session = found.session
        positions: dict[str, int] = {}
        for position, item in enumerate(session.search_results):
            positions.setdefault(item.object_id, position)
        place = _place_of(exported) if self.with_place else []
        query = session.search_query
        return [
            [
                session.session_id,
                query if query is None or isinstance(query, str) else _json(query),
                event.event_id,
                event.event_type,
                event.object_id,
                positions.get(event.object_id, ""),
                "" if event.created_at is None else jsonl.moment_text(event.created_at),
                *(("", "") if event.value is None else (event.value.currency_code, event.value.text)),
                _json(event.meta),
                *place,
            ]
            for event in found.events
        ]

    def _write(self, rows: list[list[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self.output.write(text.getvalue().encode())


class Parquet(Writer):
    """One session a row, its results and events as lists. Free JSON and amounts are text: both are exact so."""

    def __init__(self, output: Output, *, with_place: bool) -> None:
        super().__init__(output, with_place=with_place)
        self._arrow = _pyarrow()
        self._schema = _schema(self._arrow, with_place=with_place)
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._pages = 0

    def begin(self) -> None:
        from pyarrow import parquet  # type: ignore[import-untyped]  # it has no types

        self._writer = parquet.ParquetWriter(self.output, self._schema, compression="zstd")

    def write(self, sessions: Sequence[ExportedSession]) -> None:
        self._rows.extend(_parquet_row(each, with_place=self.with_place) for each in sessions)
        self._pages += 1
        if len(self._rows) >= _GROUP_SESSIONS or self._pages >= _GROUP_PAGES:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()
        self._pages = 0

    def finish(self, account: ExportAccount) -> str:
        if self._rows:
            self._write_group()
        self._writer.close()
        return super().finish(account)


WRITERS: dict[str, type[Writer]] = {"jsonl": JsonLines, "csv": Csv, "parquet": Parquet}


def _json(value: Any) -> str:
    return json.dumps(jsonl.in_order(value), ensure_ascii=False, separators=(",", ":"))


def _place_of(exported: ExportedSession) -> list[Any]:
    found = exported.session
    return [found.batch_id, found.session_number, jsonl.moment_text(found.registered_at)]


def _pyarrow() -> Any:
    try:
        import pyarrow as arrow  # noqa: ICN001  # it is `arrow` here all over
    except ImportError as error:
        raise StartFailure("Parquet needs pyarrow: pip install 'clickstream[parquet]'") from error
    return arrow


def _schema(arrow: Any, *, with_place: bool) -> Any:
    text, moment = arrow.string(), arrow.timestamp("us", tz="UTC")
    money = arrow.struct([("currency_code", text), ("amount", text)])
    result = arrow.struct([("object_id", text), ("rank", arrow.float64()), ("meta", text)])
    sort_by = arrow.struct([("field", text), ("order", text), ("force_not_payload", arrow.bool_())])
    event = arrow.struct(
        [
            *(("event_id", text), ("object_id", text), ("event_type", text), ("created_at", moment)),
            *(("meta", text), ("value", money)),
        ]
    )
    place = [("batch_id", text), ("session_number", arrow.int64()), ("registered_at", moment)] if with_place else []
    return arrow.schema(
        [
            *(("session_id", text), ("search_query", text), ("search_results", arrow.list_(result))),
            *(("search_meta", text), ("payload_filter", text), ("sort_by", sort_by), ("user_id", text)),
            *(("created_at", moment), ("is_irrelevant", arrow.bool_()), ("is_payload_search", arrow.bool_())),
            *place,
            *(("events", arrow.list_(event)), ("event_count", arrow.int64()), ("totals", arrow.list_(money))),
        ]
    )


def _parquet_row(exported: ExportedSession, *, with_place: bool) -> dict[str, Any]:
    found = exported.session
    row = jsonl.row_from_session(exported)
    fields: dict[str, Any] = row.pop("session")
    query = fields.get("search_query")
    if query is not None and not isinstance(query, str):
        fields["search_query"] = _json(query)
    for name in ("search_meta", "payload_filter"):
        fields[name] = _json(fields[name])
    fields["search_results"] = [item | {"meta": _json(item["meta"])} for item in fields["search_results"]]
    fields["created_at"] = found.session.created_at
    events = [
        fields_of_event | {"meta": _json(event.meta), "created_at": event.created_at}
        for fields_of_event, event in zip(row["events"], found.events, strict=True)
    ]
    place = dict(zip(_PLACE, (found.batch_id, found.session_number, found.registered_at), strict=True))
    return fields | row | {"events": events} | (place if with_place else {})
