"""One pass over a sealed batch, or over a reader's part of it: in order or shuffled, and from a checkpoint on."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, tee
from typing import TypedDict

from clickstream.datasets.example import Example, example_of
from clickstream.datasets.plan import Shard, Shuffle, Span
from clickstream.datasets.reading import IncompleteEpoch, ahead, read_span, sealed_batch
from clickstream.models import SessionBatch
from clickstream.sync_client import SyncClickstreamClient
from clickstream.v1.session_pb2 import SessionWithEvents
from clickstream.wire import session_with_events_from_pb

log = logging.getLogger(__name__)


class State(TypedDict):
    """A checkpoint: how many numbers of its part a reader has dealt with, and all that this depends on. Plain JSON.

    What the examples hold does not count, `events_limit` for one: a pass may go on with another.
    """

    batch_id: str
    session_counter: int
    epoch: int
    shuffle: list[int] | None
    shard: list[int]
    done: int


def check_state(state: State) -> None:
    """Raise ValueError for what has not the form of a checkpoint; it may come from a file of somebody else's."""
    if not isinstance(state, dict) or not all(isinstance(state.get(name), int) for name in ("epoch", "done")):
        raise ValueError("this is no checkpoint of a data set of clickstream")


@dataclass(slots=True)
class EpochAccount:
    """What became of the numbers of a reader's part.

    `skipped`: dealt with before the checkpoint that it went on from. `irrelevant`: left out as such. `moved`: no longer
    in the batch, since UpdateSession has moved the session on. At the end of the pass, `numbers` is the sum of all.
    """

    numbers: int
    skipped: int = 0
    examples: int = 0
    irrelevant: int = 0
    moved: int = 0

    @property
    def left(self) -> int:
        """How many numbers are not dealt with yet."""
        return self.numbers - self.done

    @property
    def done(self) -> int:
        return self.skipped + self.examples + self.irrelevant + self.moved


class Epoch:
    """One pass. Making it asks the server for the batch, so it is made in the process that reads.

    It does not hold what reads: that ends where nobody takes examples any more, whoever still asks for the account.
    """

    def __init__(
        self,
        client: SyncClickstreamClient,
        batch_id: str,
        *,
        shard: Shard,
        number: int,
        shuffle: Shuffle | None,
        include_irrelevant: bool,
        events_limit: int | None,
        state: State | None,
    ) -> None:
        self._client = client
        self._include_irrelevant = include_irrelevant
        self._events_limit = events_limit
        self._shuffle = shuffle
        self._begun = _begun(sealed_batch(client, batch_id), number, shuffle, shard)
        self._places = shard.places(self._begun["session_counter"])
        self.account = EpochAccount(len(self._places), skipped=0 if state is None else self._checked(state))

    def examples(self) -> Generator[Example, None, None]:
        """The examples, to be asked for once."""
        return self._in_order() if self._shuffle is None else self._shuffled(self._shuffle)

    def state(self) -> State:
        """What another pass can go on from, after the example that came last."""
        return {**self._begun, "done": self.account.done}

    def _checked(self, state: State) -> int:
        """How many numbers to skip. Raises ValueError for a state of another data set: it counts other numbers."""
        for name, ours in self._begun.items():
            if name != "done" and state.get(name) != ours:
                raise ValueError(f"the checkpoint is of another data set: {name} {state.get(name)!r}, here {ours!r}")
        if not 0 <= (done := state["done"]) <= len(self._places):
            raise ValueError(f"the checkpoint has dealt with {done} numbers, and there are {len(self._places)}")
        return done

    def _in_order(self) -> Generator[Example, None, None]:
        account = self.account
        if account.left:
            span = Span(self._places.start + account.done + 1, self._places.stop)
            number = span.first
            with closing(self._read(span)) as sessions:
                for found in sessions:
                    account.moved += found.session_number - number
                    number = found.session_number + 1
                    if (example := self._taken(found)) is not None:
                        yield example
            account.moved += span.last + 1 - number
        self._finish()

    def _shuffled(self, shuffle: Shuffle) -> Generator[Example, None, None]:
        """Window by window. For each block's worth of numbers, one block more is read for the next window.

        So reading goes on all the time, and little more than one window is held in memory.
        """
        windows, read_ahead = tee(shuffle.windows(self._begun["session_counter"], self._places))
        whole, skip = divmod(self.account.skipped, shuffle.buffer_size)
        spans = (span for window in islice(read_ahead, whole, None) for span in window.spans)
        with closing(ahead(self._read_packed, spans)) as parts:
            held, needed = _Held(parts), 0
            for window in islice(windows, whole, None):
                needed += len(window.spans)
                held.take(needed)
                for place, number in enumerate(window.numbers):
                    if place and place % shuffle.block_size == 0:
                        held.take(held.parts_taken + 1)
                    found = held.sessions.pop(number, None)
                    if place < skip:
                        continue
                    if found is None:
                        self.account.moved += 1
                    elif (example := self._taken(SessionWithEvents.FromString(found))) is not None:
                        yield example
                skip = 0
        self._finish()

    def _taken(self, found: SessionWithEvents) -> Example | None:
        """Count it; return its example unless it is to be left out."""
        if found.session.is_irrelevant and not self._include_irrelevant:
            self.account.irrelevant += 1
            return None
        example = example_of(session_with_events_from_pb(found))
        self.account.examples += 1  # once it is made: a checkpoint after Ctrl-C must not count one that never came
        return example

    def _read(self, span: Span) -> Generator[SessionWithEvents, None, None]:
        return read_span(self._client, self._begun["batch_id"], span, self._events_limit)

    def _read_packed(self, span: Span) -> dict[int, bytes]:
        """The sessions by number, as they are held: serialized.

        A message keeps the whole answer that it came in in memory, and many models are work for Python's garbage
        collector, which costs more than making them.
        """
        return {found.session_number: found.SerializeToString() for found in self._read(span)}

    def _finish(self) -> None:
        if self.account.left:
            raise IncompleteEpoch(f"{self.account.left} numbers are not accounted for: {self.account}")
        if self.account.moved:
            log.warning(
                "%d of %d numbers are no longer in the batch %s: UpdateSession has moved their sessions on",
                *(self.account.moved, self.account.numbers, self._begun["batch_id"]),
            )


class _Held:
    """The sessions that are read and were not dealt with yet, by number, serialized."""

    def __init__(self, parts: Iterator[dict[int, bytes]]) -> None:
        self._parts = parts
        self.parts_taken = 0
        self.sessions: dict[int, bytes] = {}

    def take(self, parts: int) -> None:
        """Take more, if there are any, until so many parts were taken in all."""
        for part in islice(self._parts, max(0, parts - self.parts_taken)):
            self.sessions.update(part)
            self.parts_taken += 1


def _begun(batch: SessionBatch, epoch: int, shuffle: Shuffle | None, shard: Shard) -> State:
    return {
        "batch_id": batch.batch_id,
        "session_counter": batch.session_counter,
        "epoch": epoch,
        "shuffle": None if shuffle is None else [shuffle.seed, shuffle.buffer_size],
        "shard": list(shard),
        "done": 0,
    }
