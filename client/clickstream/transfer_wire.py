"""Bulk transfer's models <-> protobuf: pure functions in pairs, as in `clickstream.wire`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration

from clickstream import wire
from clickstream.errors import InvalidField
from clickstream.export import ExportAccount, ExportedSession, ExportFilter, ExportPage
from clickstream.transfer import (
    EventAck,
    ImportAtomicity,
    ImportChunk,
    ImportConfig,
    ImportItem,
    ImportMode,
    ImportProgress,
    ImportSummary,
    OutcomeCounts,
)
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream.wire_values import Fields, message_of, moment_from_pb, optional_moment_fields

_MODE_TO_PB: dict[ImportMode, Any] = {mode: pb.ImportMode.Value(f"IMPORT_MODE_{mode}") for mode in ImportMode}
_MODE_FROM_PB = {number: mode for mode, number in _MODE_TO_PB.items()} | {0: ImportMode.SKIP_EXISTING}
_ATOMICITY_TO_PB: dict[ImportAtomicity, Any] = {
    value: pb.ImportAtomicity.Value(f"IMPORT_ATOMICITY_{value}") for value in ImportAtomicity
}
_ATOMICITY_FROM_PB = {number: value for value, number in _ATOMICITY_TO_PB.items()} | {0: ImportAtomicity.PER_ITEM}
_DEFAULT_RATIO = ImportConfig(import_id="any").max_failure_ratio


def event_ack_to_pb(ack: EventAck) -> pb.StreamEventsResponse:
    return pb.StreamEventsResponse(acked_sequence=ack.acked_sequence, **wire.push_result_fields(ack.result))


def event_ack_from_pb(message: pb.StreamEventsResponse) -> EventAck:
    return EventAck(message.acked_sequence, wire.push_result_from_pb(message))


def import_config_to_pb(config: ImportConfig) -> pb.ImportConfig:
    return message_of(
        pb.ImportConfig,
        import_id=config.import_id,
        mode=_MODE_TO_PB.get(config.mode, config.mode),
        atomicity=_ATOMICITY_TO_PB.get(config.atomicity, config.atomicity),
        max_failure_ratio=config.max_failure_ratio,
        dry_run=config.dry_run,
    )


def import_config_from_pb(message: pb.ImportConfig) -> ImportConfig:
    if message.mode not in _MODE_FROM_PB:
        raise InvalidField.at("mode", f"{message.mode} is not a known ImportMode")
    if message.atomicity not in _ATOMICITY_FROM_PB:
        raise InvalidField.at("atomicity", f"{message.atomicity} is not a known ImportAtomicity")
    return ImportConfig(
        import_id=message.import_id,
        mode=_MODE_FROM_PB[message.mode],
        atomicity=_ATOMICITY_FROM_PB[message.atomicity],
        max_failure_ratio=message.max_failure_ratio if message.HasField("max_failure_ratio") else _DEFAULT_RATIO,
        dry_run=message.dry_run,
    )


def import_chunk_to_pb(chunk: ImportChunk) -> pb.ImportSessionsRequest:
    """The chunk as a request, made in place: a message that is put into another is copied, 4 µs a session.

    Raises what stands in it as an error: that cannot be sent.
    """
    request = pb.ImportSessionsRequest()
    try:
        request.chunk.sequence = chunk.sequence
    except (TypeError, ValueError):
        raise InvalidField.at("chunk.sequence", "has the wrong type or is out of range") from None
    add = request.chunk.items.add
    for item in chunk.items:
        _write_item(add(), item)
    return request


def _write_item(message: pb.ImportItem, item: ImportItem) -> None:
    session, add = item.session, message.events.add
    if isinstance(session, InvalidField):
        raise session
    if session is not None:
        wire.write_session(message.session, session)
    for event in item.events:
        if isinstance(event, InvalidField):
            raise event
        wire.write_event(add(), event)


def _counts_to_pb(counts: OutcomeCounts) -> pb.OutcomeCounts:
    return pb.OutcomeCounts(
        inserted=counts.inserted,
        duplicates=counts.duplicates,
        conflicts=counts.conflicts,
        rejected=counts.rejected,
    )


def _counts_from_pb(message: pb.OutcomeCounts) -> OutcomeCounts:
    return OutcomeCounts(message.inserted, message.duplicates, message.conflicts, message.rejected)


def _shared_to_pb(answer: ImportProgress | ImportSummary) -> dict[str, Any]:
    return {
        "processed": answer.processed,
        "sessions": _counts_to_pb(answer.sessions),
        "events": _counts_to_pb(answer.events),
    }


def _shared_from_pb(message: pb.ImportProgress | pb.ImportSummary) -> dict[str, Any]:
    return {
        "processed": message.processed,
        "sessions": _counts_from_pb(message.sessions),
        "events": _counts_from_pb(message.events),
    }


def import_answer_to_pb(answer: ImportProgress | ImportSummary) -> pb.ImportSessionsResponse:
    if isinstance(answer, ImportProgress):
        failures = [wire.item_failure_to_pb(failure) for failure in answer.failures]
        progress = pb.ImportProgress(acked_sequence=answer.acked_sequence, failures=failures, **_shared_to_pb(answer))
        return pb.ImportSessionsResponse(progress=progress)
    elapsed = Duration()
    elapsed.FromMicroseconds(round(answer.elapsed_s * 1_000_000))
    summary = pb.ImportSummary(elapsed=elapsed, aborted=answer.aborted, **_shared_to_pb(answer))
    return pb.ImportSessionsResponse(summary=summary)


def import_answer_from_pb(message: pb.ImportSessionsResponse) -> ImportProgress | ImportSummary:
    kind = message.WhichOneof("response")
    if kind == "progress":
        failures = tuple(map(wire.item_failure_from_pb, message.progress.failures))
        return ImportProgress(
            acked_sequence=message.progress.acked_sequence, failures=failures, **_shared_from_pb(message.progress)
        )
    if kind == "summary":
        return ImportSummary(
            elapsed_s=message.summary.elapsed.ToMicroseconds() / 1_000_000,
            aborted=message.summary.aborted,
            **_shared_from_pb(message.summary),
        )
    raise InvalidField.at("response", "is neither progress nor a summary: this client is older than the server")


def export_filter_to_pb(chosen: ExportFilter) -> pb.ExportFilter:
    return message_of(
        pb.ExportFilter,
        batch_id=chosen.batch_id,
        session_ids=_texts("session_ids", chosen.session_ids),
        user_id=chosen.user_id,
        created_from=_bound_fields("created_from", chosen.created_from),
        created_to=_bound_fields("created_to", chosen.created_to),
        event_types=_texts("event_types", chosen.event_types),
        exclude_irrelevant=chosen.exclude_irrelevant,
    )


def _texts(name: str, given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):  # a sequence as well, of its letters, which would choose nothing without a word
        raise InvalidField.at(name, "must be a list of texts, not one text")
    return tuple(given)


def _bound_fields(name: str, moment: datetime | None) -> Fields | None:
    try:
        return optional_moment_fields(moment)
    except TypeError:
        raise InvalidField.at(name, "must be a datetime with its time zone") from None


def export_filter_from_pb(message: pb.ExportFilter) -> ExportFilter:
    return ExportFilter(
        batch_id=message.batch_id,
        session_ids=tuple(message.session_ids),
        user_id=message.user_id,
        created_from=moment_from_pb(message, "created_from"),
        created_to=moment_from_pb(message, "created_to"),
        event_types=tuple(message.event_types),
        exclude_irrelevant=message.exclude_irrelevant,
    )


def exported_session_from_pb(message: pb.ExportedSession) -> ExportedSession:
    return ExportedSession(
        wire.session_with_events_from_pb(message.session), tuple(map(wire.money_from_pb, message.totals))
    )


def export_trailer_to_pb(account: ExportAccount) -> pb.ExportTrailer:
    return pb.ExportTrailer(
        session_count=account.session_count,
        event_count=account.event_count,
        totals=map(wire.money_fields, account.totals),
        sha256=account.digest,
    )


def export_trailer_from_pb(message: pb.ExportTrailer) -> ExportAccount:
    totals = tuple(map(wire.money_from_pb, message.totals))
    return ExportAccount(message.session_count, message.event_count, totals, message.sha256)


def export_page_from_pb(message: pb.ExportSessionsResponse) -> ExportPage:
    return ExportPage(
        tuple(map(exported_session_from_pb, message.sessions)),
        message.resume_token,
        export_trailer_from_pb(message.trailer) if message.HasField("trailer") else None,
    )
