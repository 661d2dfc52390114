"""The trailing metadata of every answer: the call's id, and for unary calls where their time went."""

from __future__ import annotations

from clickstream_server.call_record import REQUEST_ID, SERVER_TIMING, CallRecord
from clickstream_server.interceptors.call import Call

Trailers = tuple[tuple[str, str | bytes], ...]


def set_trailers(call: Call, *, timed: bool = False) -> None:
    """What the answer carries. Set at a call's begin, too: for answers that gRPC's own services abort."""
    call.context.set_trailing_metadata(trailers(call.record, timed=timed))


def trailers(record: CallRecord, *, timed: bool) -> Trailers:
    """The metadata for a call. `timed`: with what its time went into so far."""
    own = (REQUEST_ID, record.request_id)
    return (own, (SERVER_TIMING, record.server_timing())) if timed else (own,)
