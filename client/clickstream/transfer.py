"""Bulk in and out: the interface beside ClickstreamDao, and its models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass

from clickstream.errors import InvalidField
from clickstream.models import PushResult, SessionEvent


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Some events of a stream under the producer's number for them, which rises from batch to batch."""

    sequence: int
    events: Sequence[SessionEvent | InvalidField]


@dataclass(frozen=True, slots=True)
class EventAck:
    """Everything up to `acked_sequence` is durable; `result` is the account of the batch with that number."""

    acked_sequence: int
    result: PushResult


class TransferDao(ABC):
    """Bulk transfer. Errors and promises are those of ClickstreamDao."""

    @abstractmethod
    def stream_events(self, batches: AsyncIterable[EventBatch]) -> AsyncGenerator[EventAck, None]:
        """Store batches of events as they come; yield one acknowledgement for each, in order, once it is durable.

        Reads ahead within bounds and waits when the storage is slower than the producer. Raises InvalidField if a
        sequence does not rise or a batch is too large; an invalid event is counted, and ends nothing.
        """
