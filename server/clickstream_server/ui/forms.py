"""Models as the JSON that the page reads. Pure. Sessions have the form of our JSON Lines files."""

from __future__ import annotations

from typing import Any

from clickstream.export import ExportedSession, totals_of
from clickstream.models import SessionBatch, SessionPage, SessionWithEvents
from clickstream_server.bulk.jsonl import moment_text, row_from_session
from clickstream_server.ui.overview import Look


def overview_fields(look: Look, address: str, storage: str) -> dict[str, Any]:
    """`samples` are [seconds ago at which it began, seconds ago at which it ended, sessions]."""
    listed = look.batches
    return {
        "server": {"address": address, "storage": storage},
        "database": {
            "answers": look.answers,
            "since": moment_text(look.since),
            "took_ms": round(look.took_s * 1000, 1),
        },
        "batches": None if listed is None else [batch_fields(batch) for batch in listed.batches],
        "next_page_token": "" if listed is None else listed.next_page_token,
        "collecting": None if look.collecting is None else batch_fields(look.collecting),
        "rate": {
            "per_s": None if look.per_s is None else round(look.per_s, 2),
            "samples": [
                [round(look.at - sample.begin, 1), round(look.at - sample.end, 1), sample.sessions]
                for sample in look.samples
            ],
        },
    }


def batch_fields(batch: SessionBatch) -> dict[str, Any]:
    return {
        "batch_id": batch.batch_id,
        "status": batch.status.value,
        "session_counter": batch.session_counter,
        "created_at": moment_text(batch.created_at),
        "updated_at": moment_text(batch.updated_at),
        "release_id": batch.release_id,
        "released_at": None if batch.released_at is None else moment_text(batch.released_at),
    }


def page_fields(batch: SessionBatch, page: SessionPage) -> dict[str, Any]:
    """A batch with some of its sessions."""
    return {
        "batch": batch_fields(batch),
        "sessions": [session_fields(found) for found in page.sessions],
        "last_number": page.last_number,
    }


def session_fields(found: SessionWithEvents) -> dict[str, Any]:
    """`totals` cover the events that are there: `event_count` tells whether those are all."""
    return row_from_session(ExportedSession(found, totals_of(found.events)), with_place=True)
