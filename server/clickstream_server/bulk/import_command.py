"""The command `clickstream import`: files one after the other, with an account of each and of every refused row."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO

from clickstream.client import ClickstreamClient
from clickstream.errors import ClickstreamError, ImportAborted, Unavailable
from clickstream.models import ItemFailure
from clickstream.transfer import ImportAtomicity, ImportChunk, ImportConfig, ImportProgress, ImportSummary
from clickstream_server.bulk.progress import BulkProgress, bulk_progress
from clickstream_server.bulk.report import FileAccount, print_import
from clickstream_server.bulk.rows import Refusal, Sendable, SessionRows
from clickstream_server.bulk.sources import STDIN, Format, Source, in_thread, interruptible, opened
from clickstream_server.bulk.ubi_rows import UbiRows
from clickstream_server.failures import StartFailure

CHUNK_ITEMS = 500
CHUNK_PARTS = 9_000
CHUNK_BYTES = 2 * 1024 * 1024
JUDGED_FROM_ROWS = 100
"""As the server judges its items."""

SAFE_AGAIN = "Running the same command again is safe: what is stored by now counts as a duplicate then."
_MESSAGES_KEPT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the command line says."""

    target: str
    config: ImportConfig
    partial: bool = False
    errors: str | None = None


def import_files(files: Sequence[str], options: ImportOptions) -> int:
    """Import the files; return the exit code: 0 if everything is stored, 2 if rows are not. Raises StartFailure."""
    for file in files:
        if file != STDIN and not Path(file).exists():
            raise StartFailure(f"there is no file {file}; nothing was imported")
    accounts: list[FileAccount] = []
    failure: StartFailure | None = None
    try:
        with ExitStack() as stack:
            errors = stack.enter_context(_errors_file(options.errors))
            progress = stack.enter_context(bulk_progress())
            asyncio.run(_import_all(files, options, accounts, errors, progress))
    except ClickstreamError as error:
        failure = StartFailure(f"{_said(options.target, error)} {_so_far(accounts)} {SAFE_AGAIN}")
    except StartFailure as error:
        failure = StartFailure(f"{error}. {_so_far(accounts)}" if accounts else str(error))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted. {_so_far(accounts)} {SAFE_AGAIN}") from None
    print_import(accounts, dry_run=options.config.dry_run, errors=options.errors)
    if failure is not None:
        raise failure
    faults = [f"{account.name}: {account.fault}" for account in accounts if account.fault is not None]
    if faults:
        raise StartFailure("; ".join(faults))
    return 2 if any(account.not_stored for account in accounts) else 0


async def _import_all(
    files: Sequence[str],
    options: ImportOptions,
    accounts: list[FileAccount],
    errors: Callable[[FileAccount, Refusal], None],
    progress: BulkProgress,
) -> None:
    async with ClickstreamClient(options.target) as client:
        await _reached(client)
        for file in files:
            with ExitStack() as stack:
                with interruptible():
                    source = stack.enter_context(opened(file, progress.read))
                account = FileAccount(source.name)
                accounts.append(account)
                progress.start(source.name, source.size)
                await _FileImport(client, options, source, account, errors=errors, progress=progress).run()


async def _reached(client: ClickstreamClient) -> None:
    """Raise StartFailure if nobody answers: better before a large file is read than after."""
    try:
        await client.list_batches(page_size=1)
    except Unavailable as error:
        raise StartFailure(
            f"the server at {client.target} does not answer ({error.reason or error.code.name}): start one with "
            "`clickstream serve`, or name another with --target"
        ) from error


@contextmanager
def _errors_file(path: str | None) -> Iterator[Callable[[FileAccount, Refusal], None]]:
    """A function that writes a refused row into the file, if there is to be one."""
    if path is None:
        yield lambda _account, _refusal: None
        return

    def failed(error: OSError) -> StartFailure:
        return StartFailure(f"cannot write {path}: {error.strerror or error}")

    try:
        file: IO[str] = Path(path).open("w", encoding="utf-8")  # noqa: SIM115  # closed below
    except OSError as error:
        raise failed(error) from error

    def write(account: FileAccount, refusal: Refusal) -> None:
        found = {
            "file": account.name,
            "line": refusal.line,
            "reason": refusal.reason,
            "message": refusal.message,
            "row": refusal.row,
        }
        try:
            file.write(f"{json.dumps(found, ensure_ascii=False)}\n")
        except OSError as error:
            raise failed(error) from error

    try:
        yield write
    finally:
        try:
            file.close()
        except OSError as error:
            raise failed(error) from error


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

    def too_many_failed(self, ratio: float) -> bool:
        return self.seen >= JUDGED_FROM_ROWS and self.refused + self.failed > ratio * self.seen


@dataclass(slots=True)
class _Failed:
    """Why a row was not stored: all of it goes into one entry."""

    reason: str
    row: str
    messages: list[str] = field(default_factory=list)


class _FileImport:
    """The import of one file."""

    def __init__(
        self,
        client: ClickstreamClient,
        options: ImportOptions,
        source: Source,
        account: FileAccount,
        *,
        errors: Callable[[FileAccount, Refusal], None],
        progress: BulkProgress,
    ) -> None:
        self._client = client
        self._account = account
        self._errors = errors
        self._progress = progress
        self._config = options.config
        atomic = self._config.atomicity is ImportAtomicity.PER_SESSION
        self._rows = (
            UbiRows(source.lines, atomic=atomic, refuse=self._refuse)
            if source.format is Format.UBI
            else SessionRows(source.lines, partial=options.partial, atomic=atomic)
        )
        self._tally = _Tally()
        self._unacked: deque[tuple[int, list[Sendable]]] = deque()
        self._stopped = False
        self._entering = Lock()

    async def run(self) -> None:
        """Raises ImportAborted past the failure ratio."""
        with closing(self._rows):
            try:
                await self._exchange()
            except ImportAborted as error:
                # The server judges what it has processed; what was sent beyond that does not count.
                self._tally.sent = self._tally.processed
                raise self._aborted() from error
        self._account.lines, self._account.fault = self._rows.ending.lines, self._rows.ending.fault
        if self._too_many_failed():
            raise self._aborted()

    async def _exchange(self) -> None:
        answers = self._client.import_sessions(self._config, self._chunks())
        async with aclosing(answers):
            async for answer in answers:
                self._account.sessions, self._account.events = answer.sessions, answer.events
                if isinstance(answer, ImportProgress):
                    self._acknowledged(answer)
                elif isinstance(answer, ImportSummary):
                    self._account.elapsed_s = answer.elapsed_s

    def _too_many_failed(self, about_to_be_sent: int = 0) -> bool:
        """Whether to stop, now and from then on. Of a UBI log all rows are known before the first is sent."""
        tally = self._tally
        seen = max(tally.sent + about_to_be_sent, self._rows.ending.understood)
        self._stopped = self._stopped or replace(tally, sent=seen).too_many_failed(self._config.max_failure_ratio)
        return self._stopped

    def _aborted(self) -> ImportAborted:
        tally = replace(self._tally, sent=self._tally.sent or self._rows.ending.understood)
        return ImportAborted(
            f"{tally.refused + tally.failed:,} of {tally.seen:,} rows failed, more than the "
            f"allowed {self._config.max_failure_ratio:.0%} (--max-failure-ratio)"
        )

    async def _chunks(self) -> AsyncIterator[ImportChunk]:
        rows = self._rows.read()
        left: list[Sendable] = []
        sequence = 0
        while not self._stopped:
            chunk = await in_thread(partial(self._next_chunk, rows, left))
            if not chunk or self._too_many_failed(about_to_be_sent=len(chunk)):
                return
            sequence += 1
            self._unacked.append((sequence, chunk))
            self._tally.sent += len(chunk)
            yield ImportChunk(sequence, [sendable.item for sendable in chunk])

    def _next_chunk(self, rows: Iterator[Sendable | Refusal], left: list[Sendable]) -> list[Sendable]:
        """The next items; none at the end. `left`: what had no room in the chunk before."""
        chunk: list[Sendable] = []
        size = parts = 0
        while len(chunk) < CHUNK_ITEMS:
            found = left.pop() if left else next(rows, None)
            if found is None:
                break
            if isinstance(found, Refusal):
                self._refuse(found)
                if self._too_many_failed(about_to_be_sent=len(chunk)):
                    break
                continue
            size += found.size
            parts += 1 + len(found.item.events)
            if chunk and (size > CHUNK_BYTES or parts > CHUNK_PARTS):
                left.append(found)
                break
            chunk.append(found)
        return chunk

    def _refuse(self, refusal: Refusal) -> None:
        """Enter a row that was refused before it was sent."""
        self._tally.refused += 1
        self._account.refused += 1
        self._enter(refusal)

    def _enter(self, refusal: Refusal) -> None:
        with self._entering:
            self._account.notes.add("row", refusal.message, refusal.line)
            self._errors(self._account, refusal)

    def _acknowledged(self, progress: ImportProgress) -> None:
        """Enter what became of the chunk: what its failures mean for the rows of the file."""
        first = self._tally.processed
        chunk = []
        while self._unacked and self._unacked[0][0] <= progress.acked_sequence:
            chunk.extend(self._unacked.popleft()[1])
        self._tally.processed = progress.processed
        self._tally.failed += len({failure.index for failure in progress.failures})
        by_line: dict[int, _Failed] = {}
        for failure in progress.failures:
            sendable = chunk[failure.index - first]
            line, message = _placed(failure, sendable)
            text = sendable.text if sendable.text is not None else self._rows.text(line)
            entry = by_line.setdefault(line, _Failed(failure.reason, text))
            if len(entry.messages) < _MESSAGES_KEPT:
                entry.messages.append(message)
        for line, entry in by_line.items():
            self._enter(Refusal(line, entry.reason, "; ".join(entry.messages), entry.row))
        self._account.failed_rows += len(by_line)
        self._too_many_failed()
        self._progress.advanced(self._account)


def _placed(failure: ItemFailure, sendable: Sendable) -> tuple[int, str]:
    """The line that a failure is about, and its message with the place as it is in that line."""
    found = re.match(r"events\[([0-9]+)\]", failure.message)
    if found is None:
        return sendable.line, failure.message
    place = int(found[1])
    rest = failure.message[found.end() :]
    if sendable.event_lines:
        return sendable.event_lines[place], rest.lstrip(".: ")
    return sendable.line, f"events[{sendable.first_event + place}]{rest}"


def _said(target: str, error: ClickstreamError) -> str:
    if isinstance(error, ImportAborted):
        return f"the import was stopped: {error.message.removeprefix('the import was stopped: ')}."
    what = "does not answer any more" if isinstance(error, Unavailable) else f"ended the import: {error.message}"
    return f"the server at {target} {what} ({error.reason or error.code.name})."


def _so_far(accounts: Sequence[FileAccount]) -> str:
    if not accounts:
        return "Nothing was imported yet."
    last = accounts[-1]
    sessions = sum(account.sessions.inserted for account in accounts)
    events = sum(account.events.inserted for account in accounts)
    known = sum(account.sessions.duplicates for account in accounts)
    return (
        f"So far {sessions:,} sessions and {events:,} events were stored, {known:,} sessions were there already; the "
        f"last file was {last.name}."
    )
