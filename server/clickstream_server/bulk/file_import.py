"""The import of one file: chunks go out, answers come back, and each refusal finds its rows."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import NamedTuple

from clickstream.client import ClickstreamClient
from clickstream.errors import ImportAborted
from clickstream.models import ItemFailure, WriteOutcome
from clickstream.transfer import FELL_WITH_SESSION, ImportAtomicity, ImportChunk, ImportConfig, ImportProgress
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.bulk.account import FileAccount, LogAccount
from clickstream_server.bulk.progress import BulkProgress
from clickstream_server.bulk.rows import Refusal, Rows, Sendable, SourceRow, weight_max_for
from clickstream_server.bulk.session_rows import SessionRows
from clickstream_server.bulk.sources import Format, Source
from clickstream_server.bulk.ubi.rows import UbiRows
from clickstream_server.waiting import in_thread

CHUNK_ITEMS = 500
CHUNK_PARTS = 9_000

_MESSAGES_KEPT = 10


@dataclass(slots=True)
class _Tally:
    """What the failure ratio is judged by: rows that were refused here, and items that were sent.

    Not those that the server answered, which come later: rows that were refused would weigh too much against them.
    """

    refused: int = 0
    sent: int = 0
    processed: int = 0
    failed: int = 0

    @property
    def seen(self) -> int:
        return self.refused + self.sent

    def stops(self, config: ImportConfig) -> bool:
        """Whether too many failed, as the server judges its items."""
        return config.stops_at(self.refused + self.failed, self.seen)


class _Sent(NamedTuple):
    """A chunk that is not acknowledged, and how far the import is when it will be, for the progress bar."""

    chunk: list[Sendable]
    place: int


@dataclass(slots=True)
class _Failed:
    """Why rows were not stored: all of it goes into one entry."""

    what: str
    rows: tuple[SourceRow, ...]
    reason: str
    messages: list[str] = field(default_factory=list)

    def add(self, reason: str, message: str) -> None:
        """Another reason. What made the rest fall says more than what fell."""
        if self.reason == FELL_WITH_SESSION != reason:
            self.reason, self.messages = reason, []
        if (reason != FELL_WITH_SESSION or not self.messages) and len(self.messages) < _MESSAGES_KEPT:
            self.messages.append(message)


class FileImport:
    """The import of one file; see `run`."""

    def __init__(
        self,
        source: Source,
        config: ImportConfig,
        *,
        partial: bool,
        refused: Callable[[FileAccount, Refusal], None],
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self.account = FileAccount(source.name)
        self._source = source
        self._config = config
        self._refused = refused
        self._weight_max = weight_max_for(message_bytes_max)
        self._progress = BulkProgress()
        self._rows = self._rows_of_source(partial=partial)
        self._coming = self._rows.read()
        self._left: list[Sendable] = []
        """What was read and had no room in the chunk before."""
        self._tally = _Tally()
        self._unacked: deque[_Sent] = deque()
        self._orphans_of: int | None = None
        """The line of the query that the server refused last: more of its events may come."""
        self._failed_line = 0
        """The line of the row that failed last: more of a large one may come, and fail as well."""
        self._judged: _Tally | None = None
        """What made it stop."""
        self._parts_sent = 0
        self._entering = Lock()

    def _rows_of_source(self, *, partial: bool) -> Rows:
        source = self._source
        atomic = self._config.atomicity is ImportAtomicity.PER_SESSION
        if source.format is Format.SESSIONS:
            return SessionRows(source.lines, partial=partial, atomic=atomic, weight_max=self._weight_max)
        self.account.log = LogAccount()
        return UbiRows(source.lines, self.account.log, atomic=atomic, weight_max=self._weight_max)

    def read_ahead(self, progress: BulkProgress) -> None:
        """Read up to the first item that can be sent; of a log, that is all of it."""
        self._show_on(progress)
        self._left = self._next_chunk(items=1)

    async def run(self, client: ClickstreamClient, progress: BulkProgress) -> None:
        """Import it. Raises ClickstreamError, of which ImportAborted is for too many failures, and StartFailure."""
        self._show_on(progress)
        try:
            await self._exchange(client)
        except ImportAborted as error:
            # The server judges what it has processed; what was sent beyond that does not count.
            raise self._aborted(replace(self._tally, sent=self._tally.processed)) from error
        self.account.fault = self._rows.ending.fault
        if self._too_many_failed() and self._judged is not None:
            raise self._aborted(self._judged)
        self.account.complete = True

    def _show_on(self, progress: BulkProgress) -> None:
        self._progress = progress
        progress.start(self.account.name, self._source.size, reading=self.account.log is not None)

    async def _exchange(self, client: ClickstreamClient) -> None:
        answers = client.import_sessions(self._config, self._chunks())
        async with aclosing(answers):
            async for answer in answers:
                if isinstance(answer, ImportProgress):
                    self._acknowledged(answer)
                else:
                    self.account.connections = answer.connections

    def _too_many_failed(self, about_to_be_sent: int = 0) -> bool:
        """Whether to stop, now and from then on. Of a log most rows are known before the first is sent."""
        if self._judged is None:
            sent = max(self._tally.sent + about_to_be_sent, self._rows.ending.understood)
            tally = replace(self._tally, sent=sent)
            if tally.stops(self._config):
                self._judged = tally
        return self._judged is not None

    def _aborted(self, judged: _Tally) -> ImportAborted:
        return ImportAborted(
            f"{judged.refused + judged.failed:,} of {judged.seen:,} rows failed, more than the "
            f"allowed {self._config.max_failure_ratio * 100:g}% (--max-failure-ratio)"
        )

    # --- what goes out ----------------------------------------------------------------------------------------------

    async def _chunks(self) -> AsyncIterator[ImportChunk]:
        sequence = 0
        while self._judged is None:
            chunk = await in_thread(self._next_chunk)
            if not chunk or self._too_many_failed(about_to_be_sent=len(chunk)):
                return
            sequence += 1
            self._unacked.append(_Sent(chunk, self._place_of(chunk)))
            self._tally.sent += len(chunk)
            yield ImportChunk(sequence, [sendable.item for sendable in chunk])

    def _place_of(self, chunk: list[Sendable]) -> int:
        """How far the import is with this chunk: in bytes of the file; of a log, which was read before, in rows."""
        log = self.account.log
        if log is None:
            return self._source.bytes_read
        if not self._parts_sent:
            self._progress.start(self.account.name, log.queries + log.event_rows)
        self._parts_sent += sum((sendable.item.session is not None) + len(sendable.item.events) for sendable in chunk)
        return self._parts_sent

    def _next_chunk(self, items: int = CHUNK_ITEMS) -> list[Sendable]:
        """The next items; none at the end. Stray events keep to themselves, for counts of their own."""
        chunk: list[Sendable] = []
        weight = parts = 0
        while len(chunk) < items:
            found = self._left.pop() if self._left else next(self._coming, None)
            if found is None:
                break
            if isinstance(found, Refusal):
                self._refuse(found)
                if self._too_many_failed(about_to_be_sent=len(chunk)):
                    break
                continue
            weight += found.weight
            parts += 1 + len(found.item.events)
            if chunk and (weight > self._weight_max or parts > CHUNK_PARTS or found.stray != chunk[0].stray):
                self._left.append(found)
                break
            chunk.append(found)
        return chunk

    def _refuse(self, refusal: Refusal) -> None:
        """Enter a row that was refused before it was sent."""
        self._tally.refused += 1
        self.account.refused += 1
        self._enter(refusal)

    def _enter(self, refusal: Refusal) -> None:
        with self._entering:  # rows are read, and answers come, in two threads
            self.account.notes.add(refusal.what, refusal.message, refusal.line)
            self._refused(self.account, refusal)

    # --- what comes back --------------------------------------------------------------------------------------------

    def _acknowledged(self, progress: ImportProgress) -> None:
        """Enter what became of the oldest chunk: what its failures mean for the rows of the file."""
        chunk, place = self._unacked.popleft()
        account, first = self.account, self._tally.processed
        account.sessions, account.events = progress.sessions, progress.events
        failures = [(failure, chunk[failure.index - first]) for failure in progress.failures]
        if account.log is not None:
            if not chunk[0].stray:
                account.log.events_of_queries = progress.events
            account.log.orphaned += self._orphans(chunk, failures)
        failed: dict[int, _Failed] = {}
        for failure, sendable in failures:
            what, rows, message = _placed(failure, sendable, of_log=account.log is not None)
            failed.setdefault(rows[0].line, _Failed(what, rows, failure.reason)).add(failure.reason, message)
        failed.pop(self._failed_line, None)  # it is entered already
        self._failed_line = max(failed, default=self._failed_line)
        for entry in failed.values():
            self._enter(Refusal(entry.rows, entry.reason, "; ".join(entry.messages), entry.what))
        account.failed_rows += len(failed)
        self._tally.failed += len({failure.index for failure in progress.failures})
        self._tally.processed = progress.processed
        self._too_many_failed()
        self._progress.reached(place, progress.sessions.total)

    def _orphans(self, chunk: list[Sendable], failures: list[tuple[ItemFailure, Sendable]]) -> int:
        """How many events of a log are stored though their query was refused, here or by the server."""
        refused = {id(sendable) for failure, sendable in failures if _is_of_session(failure, WriteOutcome.REJECTED)}
        orphans = 0
        for sendable in chunk:
            if id(sendable) in refused:
                self._orphans_of = sendable.rows[0].line
            if sendable.orphaned or sendable.rows[0].line == self._orphans_of:
                lost = sum(1 for failure, of in failures if of is sendable and not _is_of_session(failure))
                orphans += len(sendable.item.events) - lost
        return orphans


def _is_of_session(failure: ItemFailure, outcome: WriteOutcome | None = None) -> bool:
    return not failure.message.startswith("events[") and outcome in (None, failure.outcome)


def _placed(failure: ItemFailure, sendable: Sendable, *, of_log: bool) -> tuple[str, tuple[SourceRow, ...], str]:
    """What failed, the rows that it stands in, and the message with the place as it is in that row."""
    found = re.match(r"events\[([0-9]+)\]", failure.message)
    if found is None:
        message = failure.message.removeprefix("session").lstrip(".: ") if of_log else failure.message
        return "query" if of_log else "row", sendable.rows, message
    place = int(found[1])
    rest = failure.message[found.end() :]
    if of_log:
        return "event", (sendable.event_rows[place],), rest.lstrip(".: ")
    return "row", sendable.rows, f"events[{sendable.first_event + place}]{rest}"
