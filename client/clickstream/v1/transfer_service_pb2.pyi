import datetime

from clickstream.v1 import event_pb2 as _event_pb2
from clickstream.v1 import outcome_pb2 as _outcome_pb2
from clickstream.v1 import session_pb2 as _session_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImportMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_MODE_UNSPECIFIED: _ClassVar[ImportMode]
    IMPORT_MODE_SKIP_EXISTING: _ClassVar[ImportMode]
    IMPORT_MODE_REPLACE_EXISTING: _ClassVar[ImportMode]

class ImportAtomicity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_ATOMICITY_UNSPECIFIED: _ClassVar[ImportAtomicity]
    IMPORT_ATOMICITY_PER_ITEM: _ClassVar[ImportAtomicity]
    IMPORT_ATOMICITY_PER_SESSION: _ClassVar[ImportAtomicity]
IMPORT_MODE_UNSPECIFIED: ImportMode
IMPORT_MODE_SKIP_EXISTING: ImportMode
IMPORT_MODE_REPLACE_EXISTING: ImportMode
IMPORT_ATOMICITY_UNSPECIFIED: ImportAtomicity
IMPORT_ATOMICITY_PER_ITEM: ImportAtomicity
IMPORT_ATOMICITY_PER_SESSION: ImportAtomicity

class StreamEventsRequest(_message.Message):
    __slots__ = ("sequence", "events")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.SessionEvent]
    def __init__(self, sequence: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_event_pb2.SessionEvent, _Mapping]]] = ...) -> None: ...

class StreamEventsResponse(_message.Message):
    __slots__ = ("acked_sequence", "inserted", "duplicates", "conflicts", "rejected", "failures")
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    acked_sequence: int
    inserted: int
    duplicates: int
    conflicts: int
    rejected: int
    failures: _containers.RepeatedCompositeFieldContainer[_outcome_pb2.ItemFailure]
    def __init__(self, acked_sequence: _Optional[int] = ..., inserted: _Optional[int] = ..., duplicates: _Optional[int] = ..., conflicts: _Optional[int] = ..., rejected: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[_outcome_pb2.ItemFailure, _Mapping]]] = ...) -> None: ...

class ImportSessionsRequest(_message.Message):
    __slots__ = ("config", "chunk")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    config: ImportConfig
    chunk: ImportChunk
    def __init__(self, config: _Optional[_Union[ImportConfig, _Mapping]] = ..., chunk: _Optional[_Union[ImportChunk, _Mapping]] = ...) -> None: ...

class ImportConfig(_message.Message):
    __slots__ = ("import_id", "mode", "atomicity", "max_failure_ratio", "dry_run")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ATOMICITY_FIELD_NUMBER: _ClassVar[int]
    MAX_FAILURE_RATIO_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    mode: ImportMode
    atomicity: ImportAtomicity
    max_failure_ratio: float
    dry_run: bool
    def __init__(self, import_id: _Optional[str] = ..., mode: _Optional[_Union[ImportMode, str]] = ..., atomicity: _Optional[_Union[ImportAtomicity, str]] = ..., max_failure_ratio: _Optional[float] = ..., dry_run: bool = ...) -> None: ...

class ImportChunk(_message.Message):
    __slots__ = ("sequence", "items")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    items: _containers.RepeatedCompositeFieldContainer[ImportItem]
    def __init__(self, sequence: _Optional[int] = ..., items: _Optional[_Iterable[_Union[ImportItem, _Mapping]]] = ...) -> None: ...

class ImportItem(_message.Message):
    __slots__ = ("session", "events")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.SessionEvent]
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_event_pb2.SessionEvent, _Mapping]]] = ...) -> None: ...

class ImportSessionsResponse(_message.Message):
    __slots__ = ("progress", "summary")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    progress: ImportProgress
    summary: ImportSummary
    def __init__(self, progress: _Optional[_Union[ImportProgress, _Mapping]] = ..., summary: _Optional[_Union[ImportSummary, _Mapping]] = ...) -> None: ...

class OutcomeCounts(_message.Message):
    __slots__ = ("inserted", "duplicates", "conflicts", "rejected")
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    inserted: int
    duplicates: int
    conflicts: int
    rejected: int
    def __init__(self, inserted: _Optional[int] = ..., duplicates: _Optional[int] = ..., conflicts: _Optional[int] = ..., rejected: _Optional[int] = ...) -> None: ...

class ImportProgress(_message.Message):
    __slots__ = ("acked_sequence", "processed", "sessions", "events", "failures")
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    acked_sequence: int
    processed: int
    sessions: OutcomeCounts
    events: OutcomeCounts
    failures: _containers.RepeatedCompositeFieldContainer[_outcome_pb2.ItemFailure]
    def __init__(self, acked_sequence: _Optional[int] = ..., processed: _Optional[int] = ..., sessions: _Optional[_Union[OutcomeCounts, _Mapping]] = ..., events: _Optional[_Union[OutcomeCounts, _Mapping]] = ..., failures: _Optional[_Iterable[_Union[_outcome_pb2.ItemFailure, _Mapping]]] = ...) -> None: ...

class ImportSummary(_message.Message):
    __slots__ = ("processed", "sessions", "events", "elapsed", "aborted")
    PROCESSED_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    processed: int
    sessions: OutcomeCounts
    events: OutcomeCounts
    elapsed: _duration_pb2.Duration
    aborted: bool
    def __init__(self, processed: _Optional[int] = ..., sessions: _Optional[_Union[OutcomeCounts, _Mapping]] = ..., events: _Optional[_Union[OutcomeCounts, _Mapping]] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., aborted: bool = ...) -> None: ...

class ExportSessionsRequest(_message.Message):
    __slots__ = ("filter", "events_limit", "limit", "resume_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: ExportFilter
    events_limit: int
    limit: int
    resume_token: str
    def __init__(self, filter: _Optional[_Union[ExportFilter, _Mapping]] = ..., events_limit: _Optional[int] = ..., limit: _Optional[int] = ..., resume_token: _Optional[str] = ...) -> None: ...

class ExportFilter(_message.Message):
    __slots__ = ("batch_id", "session_ids", "user_id", "created_from", "created_to", "event_types", "exclude_irrelevant")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FROM_FIELD_NUMBER: _ClassVar[int]
    CREATED_TO_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_IRRELEVANT_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    user_id: str
    created_from: _timestamp_pb2.Timestamp
    created_to: _timestamp_pb2.Timestamp
    event_types: _containers.RepeatedScalarFieldContainer[str]
    exclude_irrelevant: bool
    def __init__(self, batch_id: _Optional[str] = ..., session_ids: _Optional[_Iterable[str]] = ..., user_id: _Optional[str] = ..., created_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., event_types: _Optional[_Iterable[str]] = ..., exclude_irrelevant: bool = ...) -> None: ...

class ExportSessionsResponse(_message.Message):
    __slots__ = ("sessions", "resume_token", "trailer")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[ExportedSession]
    resume_token: str
    trailer: ExportTrailer
    def __init__(self, sessions: _Optional[_Iterable[_Union[ExportedSession, _Mapping]]] = ..., resume_token: _Optional[str] = ..., trailer: _Optional[_Union[ExportTrailer, _Mapping]] = ...) -> None: ...

class ExportedSession(_message.Message):
    __slots__ = ("session", "totals")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.SessionWithEvents
    totals: _containers.RepeatedCompositeFieldContainer[_event_pb2.Money]
    def __init__(self, session: _Optional[_Union[_session_pb2.SessionWithEvents, _Mapping]] = ..., totals: _Optional[_Iterable[_Union[_event_pb2.Money, _Mapping]]] = ...) -> None: ...

class ExportTrailer(_message.Message):
    __slots__ = ("session_count", "event_count", "totals", "sha256")
    SESSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    session_count: int
    event_count: int
    totals: _containers.RepeatedCompositeFieldContainer[_event_pb2.Money]
    sha256: bytes
    def __init__(self, session_count: _Optional[int] = ..., event_count: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[_event_pb2.Money, _Mapping]]] = ..., sha256: _Optional[bytes] = ...) -> None: ...
