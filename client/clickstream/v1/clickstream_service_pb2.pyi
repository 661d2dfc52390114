from clickstream.v1 import batch_pb2 as _batch_pb2
from clickstream.v1 import event_pb2 as _event_pb2
from clickstream.v1 import outcome_pb2 as _outcome_pb2
from clickstream.v1 import session_pb2 as _session_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterSessionRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...

class RegisterSessionResponse(_message.Message):
    __slots__ = ("session", "outcome")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.RegisteredSession
    outcome: _outcome_pb2.WriteOutcome
    def __init__(self, session: _Optional[_Union[_session_pb2.RegisteredSession, _Mapping]] = ..., outcome: _Optional[_Union[_outcome_pb2.WriteOutcome, str]] = ...) -> None: ...

class UpdateSessionRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ...) -> None: ...

class UpdateSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.RegisteredSession
    def __init__(self, session: _Optional[_Union[_session_pb2.RegisteredSession, _Mapping]] = ...) -> None: ...

class PushEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.SessionEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.SessionEvent, _Mapping]]] = ...) -> None: ...

class PushEventsResponse(_message.Message):
    __slots__ = ("inserted", "duplicates", "conflicts", "rejected", "failures")
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    inserted: int
    duplicates: int
    conflicts: int
    rejected: int
    failures: _containers.RepeatedCompositeFieldContainer[_outcome_pb2.ItemFailure]
    def __init__(self, inserted: _Optional[int] = ..., duplicates: _Optional[int] = ..., conflicts: _Optional[int] = ..., rejected: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[_outcome_pb2.ItemFailure, _Mapping]]] = ...) -> None: ...

class MarkSessionIrrelevantRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class MarkSessionIrrelevantResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.RegisteredSession
    def __init__(self, session: _Optional[_Union[_session_pb2.RegisteredSession, _Mapping]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id", "events_limit")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    events_limit: int
    def __init__(self, session_id: _Optional[str] = ..., events_limit: _Optional[int] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.SessionWithEvents
    def __init__(self, session: _Optional[_Union[_session_pb2.SessionWithEvents, _Mapping]] = ...) -> None: ...

class GetBatchSessionsRequest(_message.Message):
    __slots__ = ("batch_id", "after_number", "limit", "events_limit", "exclude_irrelevant", "follow")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_IRRELEVANT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    after_number: int
    limit: int
    events_limit: int
    exclude_irrelevant: bool
    follow: bool
    def __init__(self, batch_id: _Optional[str] = ..., after_number: _Optional[int] = ..., limit: _Optional[int] = ..., events_limit: _Optional[int] = ..., exclude_irrelevant: bool = ..., follow: bool = ...) -> None: ...

class GetBatchSessionsResponse(_message.Message):
    __slots__ = ("sessions", "last_number", "sealed")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[_session_pb2.SessionWithEvents]
    last_number: int
    sealed: bool
    def __init__(self, sessions: _Optional[_Iterable[_Union[_session_pb2.SessionWithEvents, _Mapping]]] = ..., last_number: _Optional[int] = ..., sealed: bool = ...) -> None: ...

class GetBatchRequest(_message.Message):
    __slots__ = ("batch_id",)
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    def __init__(self, batch_id: _Optional[str] = ...) -> None: ...

class GetBatchResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: _batch_pb2.SessionBatch
    def __init__(self, batch: _Optional[_Union[_batch_pb2.SessionBatch, _Mapping]] = ...) -> None: ...

class ListBatchesRequest(_message.Message):
    __slots__ = ("statuses", "page_size", "page_token")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[_batch_pb2.SessionBatchStatus]
    page_size: int
    page_token: str
    def __init__(self, statuses: _Optional[_Iterable[_Union[_batch_pb2.SessionBatchStatus, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBatchesResponse(_message.Message):
    __slots__ = ("batches", "next_page_token")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[_batch_pb2.SessionBatch]
    next_page_token: str
    def __init__(self, batches: _Optional[_Iterable[_Union[_batch_pb2.SessionBatch, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReleaseBatchRequest(_message.Message):
    __slots__ = ("release_id",)
    RELEASE_ID_FIELD_NUMBER: _ClassVar[int]
    release_id: str
    def __init__(self, release_id: _Optional[str] = ...) -> None: ...

class ReleaseBatchResponse(_message.Message):
    __slots__ = ("batch", "already_released")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ALREADY_RELEASED_FIELD_NUMBER: _ClassVar[int]
    batch: _batch_pb2.SessionBatch
    already_released: bool
    def __init__(self, batch: _Optional[_Union[_batch_pb2.SessionBatch, _Mapping]] = ..., already_released: bool = ...) -> None: ...

class UpdateBatchStatusRequest(_message.Message):
    __slots__ = ("batch_id", "status", "expected_status")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STATUS_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    status: _batch_pb2.SessionBatchStatus
    expected_status: _batch_pb2.SessionBatchStatus
    def __init__(self, batch_id: _Optional[str] = ..., status: _Optional[_Union[_batch_pb2.SessionBatchStatus, str]] = ..., expected_status: _Optional[_Union[_batch_pb2.SessionBatchStatus, str]] = ...) -> None: ...

class UpdateBatchStatusResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: _batch_pb2.SessionBatch
    def __init__(self, batch: _Optional[_Union[_batch_pb2.SessionBatch, _Mapping]] = ...) -> None: ...
