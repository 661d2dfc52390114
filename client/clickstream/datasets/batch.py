"""A sealed batch as an iterable of examples, for plain Python; what the other data sets are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from clickstream.datasets.epoch import Epoch, EpochAccount, State, check_state
from clickstream.datasets.example import Example
from clickstream.datasets.plan import Shard, Shuffle
from clickstream.sync_client import SyncClickstreamClient
from clickstream.values import INT32_MAX

BUFFER_SIZE = 4096


class BatchExamples(Iterable[Example]):
    """The examples of a sealed batch, each once, by number; or those of one reader, its `shard`.

    Every iteration reads the batch anew. Nothing is asked of the server before, so it may be pickled or forked. Raises,
    when an iteration begins: BatchNotFound; BatchStatusMismatch while the batch collects. At its end: IncompleteEpoch
    unless all of its numbers are accounted for. In between: MessageTooLarge where a session with its events does not
    fit into a message, which `events_limit` helps against; the checkpoint of that pass can be gone on from with one.

    `shuffle`: in an order that follows from `seed` and the epoch, see `Shuffle`; `buffer_size` sessions are held in
    memory for it. Sessions that are marked irrelevant are left out unless `include_irrelevant`. `events_limit`: an
    example has the first so many events of its session only (None: all); its `event_count` says how many are stored.
    """

    def __init__(
        self,
        client: SyncClickstreamClient,
        batch_id: str,
        *,
        shuffle: bool = False,
        seed: int = 0,
        buffer_size: int = BUFFER_SIZE,
        include_irrelevant: bool = False,
        events_limit: int | None = None,
        shard: Shard = Shard(),  # noqa: B008  # it is immutable
    ) -> None:
        if not batch_id:
            raise ValueError("batch_id must not be empty: a data set is of one sealed batch")
        if buffer_size < 1:
            raise ValueError("buffer_size must be at least 1")
        if events_limit is not None and not 0 <= events_limit <= INT32_MAX:
            raise ValueError(f"events_limit must be from 0 to {INT32_MAX}")
        self._client = client
        self._batch_id = batch_id
        self._shuffle = shuffle
        self._seed = seed
        self._buffer_size = buffer_size
        self._include_irrelevant = include_irrelevant
        self._events_limit = events_limit
        self._shard = shard
        self._epoch = 0
        self._loaded: State | None = None
        self._latest: Epoch | None = None

    @property
    def epoch(self) -> int:
        """The number of the pass that begins next; a shuffled order depends on it."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """To be called before each pass, if it is to have an order of its own."""
        self._epoch = epoch

    @property
    def account(self) -> EpochAccount:
        """What became of the numbers so far, in the pass that was begun last."""
        return self._begun().account

    def state_dict(self) -> State:
        """A checkpoint of the pass that was begun last, after the example that came last."""
        return self._begun().state()

    def load_state_dict(self, state: State) -> None:
        """Let the next pass go on from this checkpoint, in its epoch. That pass raises ValueError if it cannot; as long
        as none can begin, since the server is away, say, the checkpoint is kept.

        Raises ValueError for what is no checkpoint of such a data set.
        """
        check_state(state)
        self._loaded = state
        self.set_epoch(state["epoch"])

    def __iter__(self) -> Iterator[Example]:
        begun = Epoch(
            self._client,
            self._batch_id,
            shard=self._reader(),
            number=self.epoch,
            shuffle=Shuffle(self._seed, self.epoch, self._buffer_size) if self._shuffle else None,
            include_irrelevant=self._include_irrelevant,
            events_limit=self._events_limit,
            state=self._loaded,
        )
        self._latest, self._loaded = begun, None
        return begun.examples()

    def _reader(self) -> Shard:
        return self._shard

    def _begun(self) -> Epoch:
        if self._latest is None:
            raise RuntimeError("nothing was read yet in this process: iterate first")
        return self._latest

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process needs; a pass that runs here stays here."""
        return self.__dict__ | {"_latest": None}
