"""The domain's errors, and the one table that ties each to its gRPC status code and reason.

The (code, reason) pair and the details are API; the text is for people and may change. `to_status` and `from_status`
are the two directions of the same table, so that an error raised in the storage is the same error in the client.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Self

from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

DOMAIN = "clickstream"
VIOLATIONS_MAX = 20
"""An error names at most this many fields: gRPC metadata is limited to 8 KB, its base64 and the message included."""
_VIOLATION_BYTES_MAX = 3000
_TEXT_BYTES_MAX = 400


class FieldViolation(NamedTuple):
    """What is wrong with one field. `path` is as in `session.search_results[3].object_id`."""

    path: str
    description: str


class ClickstreamError(Exception):
    """The base of every error of this package. `message` is meant for people, `code` and `reason` for programs."""

    code: StatusCode = StatusCode.UNKNOWN
    reason: ClassVar[str] = ""
    resource_type: ClassVar[str] = ""
    request_id: str = ""
    """The id of the call that ended with this, under which the server knows it; empty if no server answered."""

    def __init__(
        self,
        message: str,
        *,
        violations: Iterable[FieldViolation] = (),
        resource_name: str = "",
        retry_after_s: float | None = None,
        error_id: str = "",
    ) -> None:
        super().__init__(_shortened(message))
        self.message = _shortened(message)
        self.violations = tuple(violations)
        self.resource_name = resource_name
        self.retry_after_s = retry_after_s
        self.error_id = error_id


class InvalidField(ClickstreamError):
    """Something in the request is invalid; `violations` says what and where. Nothing of it was stored."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"
    item_id: str = ""
    """Where the error stands in for one thing among many: that thing's id."""

    @classmethod
    def of(cls, violations: Iterable[FieldViolation]) -> Self:
        """The error that names these violations in its message, too."""
        listed = tuple(violations)
        text = "; ".join(f"{path}: {what}" if path else what for path, what in listed[:3])
        more = f"; and {len(listed) - 3} more" if len(listed) > 3 else ""
        return cls(text + more, violations=listed)

    @classmethod
    def at(cls, path: str, description: str) -> Self:
        """The error about one field."""
        return cls.of([FieldViolation(path, description)])

    def under(self, prefix: str) -> InvalidField:
        """The same error with the paths one level further down: `meta.a` under `events[3]`."""
        return InvalidField.of(
            FieldViolation(f"{prefix}{'' if path.startswith('[') or not path else '.'}{path}", what)
            for path, what in self.violations
        )


class NotFound(ClickstreamError):
    """Something that the request names does not exist."""

    code = StatusCode.NOT_FOUND


class SessionNotFound(NotFound):
    """There is no session with this id."""

    reason = "SESSION_NOT_FOUND"
    resource_type = "clickstream.v1.Session"

    @classmethod
    def by_id(cls, session_id: str) -> Self:
        return cls(f"there is no session {session_id!r}", resource_name=session_id)


class BatchNotFound(NotFound):
    """There is no batch with this id."""

    reason = "BATCH_NOT_FOUND"
    resource_type = "clickstream.v1.SessionBatch"

    @classmethod
    def by_id(cls, batch_id: str) -> Self:
        return cls(f"there is no batch {batch_id!r}", resource_name=batch_id)


class NoCollectingBatch(NotFound):
    """No batch is collecting: nothing was registered since the last release."""

    reason = "NO_COLLECTING_BATCH"
    resource_type = "clickstream.v1.SessionBatch"

    @classmethod
    def now(cls) -> Self:
        return cls("no batch is collecting: nothing was registered since the last release")


class FailedPrecondition(ClickstreamError):
    """The batch is not in the state that the request needs."""

    code = StatusCode.FAILED_PRECONDITION


class BatchAlreadyCollecting(FailedPrecondition):
    """Another batch is collecting, and only one may."""

    reason = "BATCH_ALREADY_COLLECTING"


class BatchStatusMismatch(FailedPrecondition):
    """The batch's status is not the expected one."""

    reason = "BATCH_STATUS_MISMATCH"


class ResourceExhausted(ClickstreamError):
    """A limit of the service was reached."""

    code = StatusCode.RESOURCE_EXHAUSTED


class Overloaded(ResourceExhausted):
    """More is waiting than the service takes on. Try again after `retry_after_s`.

    While the service refuses many calls for long, the client itself refuses some, which are not sent.
    """

    reason = "OVERLOADED"


class MessageTooLarge(ResourceExhausted):
    """A message would be larger than the service allows."""

    reason = "MESSAGE_TOO_LARGE"


class Unavailable(ClickstreamError):
    """The service cannot be reached or cannot answer now. What was sent may have been stored; sending again is safe.

    Except for an update of a session, or of a batch's status with an expected one: see docs/errors.md.
    """

    code = StatusCode.UNAVAILABLE


class StorageUnavailable(Unavailable):
    """The database does not answer. Try again after `retry_after_s`."""

    reason = "STORAGE_UNAVAILABLE"


class ShuttingDown(Unavailable):
    """The server is stopping. Try again, on another server if there is one."""

    reason = "SHUTTING_DOWN"


class DeadlineExceeded(ClickstreamError):
    """The deadline passed before the answer came. What was sent may have been stored; sending again is safe.

    Except for an update of a session, or of a batch's status with an expected one: see docs/errors.md.
    """

    code = StatusCode.DEADLINE_EXCEEDED


class Cancelled(ClickstreamError):
    """The call was cancelled."""

    code = StatusCode.CANCELLED


class Aborted(ClickstreamError):
    """The service stopped something that was under way."""

    code = StatusCode.ABORTED


class ImportAborted(Aborted):
    """An import was stopped because too many of its items failed. What was acknowledged stays."""

    reason = "FAILURE_RATIO_EXCEEDED"


class IncompleteExport(ClickstreamError):
    """What a client received of an export does not agree with its trailer. Raised by clients, never by the service."""

    code = StatusCode.DATA_LOSS


class Unauthenticated(ClickstreamError):
    """The service does not know who calls."""

    code = StatusCode.UNAUTHENTICATED


class MissingCredentials(Unauthenticated):
    """The call carries no credentials."""

    reason = "MISSING_CREDENTIALS"


class InvalidCredentials(Unauthenticated):
    """The call carries credentials that are not valid."""

    reason = "INVALID_CREDENTIALS"


class PermissionDenied(ClickstreamError):
    """The caller may not do this."""

    code = StatusCode.PERMISSION_DENIED


class MethodNotAllowed(PermissionDenied):
    """The caller's role does not include this method."""

    reason = "METHOD_NOT_ALLOWED"


class InternalError(ClickstreamError):
    """A fault of the service. `error_id` stands in its log."""

    code = StatusCode.INTERNAL
    reason = "INTERNAL"


def _all_errors(base: type[ClickstreamError]) -> list[type[ClickstreamError]]:
    return [base, *(found for child in base.__subclasses__() for found in _all_errors(child))]


BY_STATUS: dict[tuple[StatusCode, str], type[ClickstreamError]] = {
    (error.code, error.reason): error for error in _all_errors(ClickstreamError) if error is not ClickstreamError
}
"""Every error by its code and reason; under an empty reason stands the general error of that code, if there is one."""


def to_status(error: ClickstreamError) -> status_pb2.Status:
    """The error as `google.rpc.Status` with its details."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=error.reason or error.code.name)
    if error.error_id:
        info.metadata["error_id"] = error.error_id
    status.details.add().Pack(info)
    if error.violations:
        status.details.add().Pack(_bad_request(error.violations))
    if error.resource_type:
        status.details.add().Pack(
            error_details_pb2.ResourceInfo(resource_type=error.resource_type, resource_name=error.resource_name)
        )
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for path, description in violations[:VIOLATIONS_MAX]:
        bad_request.field_violations.add(field=_shortened(path), description=_shortened(description))
        if bad_request.ByteSize() > _VIOLATION_BYTES_MAX:
            break
    return bad_request


def _shortened(text: str) -> str:
    """At most that many bytes of UTF-8: gRPC sends the message percent-encoded, three bytes for one."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= _TEXT_BYTES_MAX:
        return text
    return encoded[: _TEXT_BYTES_MAX - 3].decode(errors="ignore") + "…"


def from_status(code: StatusCode, message: str, details: bytes | None) -> ClickstreamError:
    """The error that a call ended with. `details`: the `grpc-status-details-bin` trailer, if there was one.

    A code that the contract does not use (UNIMPLEMENTED from a proxy, say) arrives as a plain ClickstreamError.
    """
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    resource = error_details_pb2.ResourceInfo()
    retry = error_details_pb2.RetryInfo()
    for detail in _unpacked(details):
        for kind in (info, bad_request, resource, retry):
            detail.Unpack(kind)
    reason = info.reason if info.domain == DOMAIN else ""
    error = BY_STATUS.get((code, reason)) or BY_STATUS.get((code, "")) or ClickstreamError
    has_retry = retry.HasField("retry_delay")
    found_error = error(
        message,
        violations=[FieldViolation(found.field, found.description) for found in bad_request.field_violations],
        resource_name=resource.resource_name,
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if has_retry else None,
        error_id=info.metadata.get("error_id", ""),
    )
    found_error.code = code
    return found_error


def _unpacked(details: bytes | None) -> Iterable[Any]:
    try:
        return list(status_pb2.Status.FromString(details or b"").details)
    except DecodeError:
        return ()
