import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionBatchStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_BATCH_STATUS_UNSPECIFIED: _ClassVar[SessionBatchStatus]
    SESSION_BATCH_STATUS_COLLECTING: _ClassVar[SessionBatchStatus]
    SESSION_BATCH_STATUS_RELEASED: _ClassVar[SessionBatchStatus]
    SESSION_BATCH_STATUS_FINE_TUNING: _ClassVar[SessionBatchStatus]
    SESSION_BATCH_STATUS_COMPLETED: _ClassVar[SessionBatchStatus]
    SESSION_BATCH_STATUS_ARCHIVING: _ClassVar[SessionBatchStatus]
    SESSION_BATCH_STATUS_ARCHIVED: _ClassVar[SessionBatchStatus]
SESSION_BATCH_STATUS_UNSPECIFIED: SessionBatchStatus
SESSION_BATCH_STATUS_COLLECTING: SessionBatchStatus
SESSION_BATCH_STATUS_RELEASED: SessionBatchStatus
SESSION_BATCH_STATUS_FINE_TUNING: SessionBatchStatus
SESSION_BATCH_STATUS_COMPLETED: SessionBatchStatus
SESSION_BATCH_STATUS_ARCHIVING: SessionBatchStatus
SESSION_BATCH_STATUS_ARCHIVED: SessionBatchStatus

class SessionBatch(_message.Message):
    __slots__ = ("batch_id", "status", "session_counter", "created_at", "release_id", "released_at", "updated_at")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SESSION_COUNTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    status: SessionBatchStatus
    session_counter: int
    created_at: _timestamp_pb2.Timestamp
    release_id: str
    released_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, batch_id: _Optional[str] = ..., status: _Optional[_Union[SessionBatchStatus, str]] = ..., session_counter: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., release_id: _Optional[str] = ..., released_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
