import datetime

from clickstream.v1 import event_pb2 as _event_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_UNSPECIFIED: _ClassVar[Order]
    ORDER_ASC: _ClassVar[Order]
    ORDER_DESC: _ClassVar[Order]
ORDER_UNSPECIFIED: Order
ORDER_ASC: Order
ORDER_DESC: Order

class Session(_message.Message):
    __slots__ = ("session_id", "search_query", "search_results", "search_meta", "payload_filter", "sort_by", "user_id", "created_at", "is_irrelevant", "is_payload_search")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEARCH_QUERY_FIELD_NUMBER: _ClassVar[int]
    SEARCH_RESULTS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_META_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FILTER_FIELD_NUMBER: _ClassVar[int]
    SORT_BY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    IS_IRRELEVANT_FIELD_NUMBER: _ClassVar[int]
    IS_PAYLOAD_SEARCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    search_query: _struct_pb2.Value
    search_results: _containers.RepeatedCompositeFieldContainer[SearchResultItem]
    search_meta: _struct_pb2.Struct
    payload_filter: _struct_pb2.Struct
    sort_by: SortBy
    user_id: str
    created_at: _timestamp_pb2.Timestamp
    is_irrelevant: bool
    is_payload_search: bool
    def __init__(self, session_id: _Optional[str] = ..., search_query: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., search_results: _Optional[_Iterable[_Union[SearchResultItem, _Mapping]]] = ..., search_meta: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., payload_filter: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., sort_by: _Optional[_Union[SortBy, _Mapping]] = ..., user_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., is_irrelevant: bool = ..., is_payload_search: bool = ...) -> None: ...

class SearchResultItem(_message.Message):
    __slots__ = ("object_id", "rank", "meta")
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    object_id: str
    rank: float
    meta: _struct_pb2.Struct
    def __init__(self, object_id: _Optional[str] = ..., rank: _Optional[float] = ..., meta: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class SortBy(_message.Message):
    __slots__ = ("field", "order", "force_not_payload")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    FORCE_NOT_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    field: str
    order: Order
    force_not_payload: bool
    def __init__(self, field: _Optional[str] = ..., order: _Optional[_Union[Order, str]] = ..., force_not_payload: bool = ...) -> None: ...

class RegisteredSession(_message.Message):
    __slots__ = ("session", "batch_id", "session_number", "registered_at")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_NUMBER_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    session: Session
    batch_id: str
    session_number: int
    registered_at: _timestamp_pb2.Timestamp
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., batch_id: _Optional[str] = ..., session_number: _Optional[int] = ..., registered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SessionWithEvents(_message.Message):
    __slots__ = ("session", "batch_id", "session_number", "registered_at", "events", "event_count")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_NUMBER_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    session: Session
    batch_id: str
    session_number: int
    registered_at: _timestamp_pb2.Timestamp
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.SessionEvent]
    event_count: int
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., batch_id: _Optional[str] = ..., session_number: _Optional[int] = ..., registered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_event_pb2.SessionEvent, _Mapping]]] = ..., event_count: _Optional[int] = ...) -> None: ...
