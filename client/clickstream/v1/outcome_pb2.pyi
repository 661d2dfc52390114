from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_OUTCOME_UNSPECIFIED: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_INSERTED: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_DUPLICATE: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_CONFLICT: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_REJECTED: _ClassVar[WriteOutcome]
WRITE_OUTCOME_UNSPECIFIED: WriteOutcome
WRITE_OUTCOME_INSERTED: WriteOutcome
WRITE_OUTCOME_DUPLICATE: WriteOutcome
WRITE_OUTCOME_CONFLICT: WriteOutcome
WRITE_OUTCOME_REJECTED: WriteOutcome

class ItemFailure(_message.Message):
    __slots__ = ("index", "id", "outcome", "reason", "message", "retryable")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: str
    outcome: WriteOutcome
    reason: str
    message: str
    retryable: bool
    def __init__(self, index: _Optional[int] = ..., id: _Optional[str] = ..., outcome: _Optional[_Union[WriteOutcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retryable: bool = ...) -> None: ...
