"""The commands `clickstream import` and `clickstream replay`: files one after the other, with an account of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from clickstream.access import Access
from clickstream.client import ClickstreamClient
from clickstream.errors import ClickstreamError, ImportAborted, Unavailable
from clickstream.models import SessionBatch, SessionBatchStatus
from clickstream.transfer import ImportConfig
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.bulk.account import FileAccount, disagreements
from clickstream_server.bulk.file_import import FileImport
from clickstream_server.bulk.progress import bulk_progress
from clickstream_server.bulk.refusals import refusals_file
from clickstream_server.bulk.report import print_import
from clickstream_server.bulk.sources import STDIN, Format, Generated, opened
from clickstream_server.failures import StartFailure
from clickstream_server.reach import advice, message_of, program
from clickstream_server.sample import sample_log
from clickstream_server.waiting import interruptible

SAFE_AGAIN = "Running the same command again is safe: what is stored by now counts as a duplicate then."
NOT_ALL_STORED = 2
"""The exit code where rows were refused or are in conflict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the command line says. `format`: what the files are; None to recognise it."""

    access: Access
    config: ImportConfig
    partial: bool = False
    errors: str | None = None
    format: Format | None = None
    message_bytes_max: int = MESSAGE_BYTES_MAX


@dataclass(slots=True)
class _Done:
    """What was done, up to where it got."""

    accounts: list[FileAccount] = field(default_factory=list)
    collecting: SessionBatch | None = None


def replay(access: Access, log: str | Generated, *, message_bytes_max: int) -> int:
    """Import a search log of which no share of bad rows is too much; return the exit code. Raises StartFailure."""
    config = log_config(f"replay-{uuid4().hex[:12]}")
    options = ImportOptions(access=access, config=config, format=Format.UBI, message_bytes_max=message_bytes_max)
    code = import_files([log], options)
    return 0 if code == NOT_ALL_STORED else code


def log_config(import_id: str) -> ImportConfig:
    """How a log is replayed: a real one is messy, and the account says how much so."""
    return ImportConfig(import_id=import_id, max_failure_ratio=1)


def sample(queries: int) -> Generated:
    """A generated log, to be replayed."""
    return Generated(f"a generated log of {queries:,} queries", sample_log(queries))


def import_files(files: Sequence[str | Generated], options: ImportOptions) -> int:
    """Import the files; return the exit code: 0 if everything is stored, 2 if rows are not. Raises StartFailure."""
    _check_files([file for file in files if isinstance(file, str)], options.errors)
    done = _Done()
    failure: StartFailure | None = None
    try:
        asyncio.run(_import_all(files, options, done))
    except ClickstreamError as error:
        failure = StartFailure(f"{_said(options.access.target, error)} {_so_far(done.accounts)} {SAFE_AGAIN}")
    except StartFailure as error:
        failure = StartFailure(f"{error}. {_so_far(done.accounts)}" if done.accounts else str(error))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted. {_so_far(done.accounts)} {SAFE_AGAIN}") from None
    try:
        _print(done, options)
    except StartFailure as error:
        failure = failure or StartFailure(f"{error}. {_so_far(done.accounts)}")
    if failure is not None:
        raise failure
    if faults := [f"{account.name}: {account.fault}" for account in done.accounts if account.fault is not None]:
        raise StartFailure("; ".join(faults))
    if any(account.log is not None and disagreements(account, account.log) for account in done.accounts):
        return 1
    return NOT_ALL_STORED if any(account.not_stored for account in done.accounts) else 0


def _print(done: _Done, options: ImportOptions) -> None:
    if done.accounts:
        dry_run = options.config.dry_run
        print_import(done.accounts, dry_run=dry_run, errors=options.errors, collecting=done.collecting)


def _check_files(files: Sequence[str], errors: str | None) -> None:
    """Raise StartFailure if a file is not there, or is to be written over with its own refused rows."""
    for file in files:
        if file == STDIN:
            continue
        if not Path(file).exists():
            raise StartFailure(f"cannot read {file}: No such file or directory; nothing was imported")
        if errors is not None and Path(errors).exists() and Path(file).samefile(errors):
            raise StartFailure(f"--errors {errors} would write over the file that is to be imported")


async def _import_all(files: Sequence[str | Generated], options: ImportOptions, done: _Done) -> None:
    size = options.message_bytes_max
    async with ClickstreamClient(**options.access.arguments, message_bytes_max=size) as client:
        await _reached(client)
        with ExitStack() as everything:
            refused = everything.enter_context(refusals_file(options.errors))
            progress = everything.enter_context(bulk_progress())
            for file in files:
                with ExitStack() as stack:
                    with interruptible():
                        source = stack.enter_context(opened(file, progress.read, options.format))
                    partial = options.partial
                    one = FileImport(source, options.config, partial=partial, refused=refused, message_bytes_max=size)
                    done.accounts.append(one.account)
                    await one.run(client, progress)
        if not options.config.dry_run:
            with suppress(ClickstreamError):  # everything is stored, whether or not somebody can still tell where
                found = await client.list_batches(statuses=[SessionBatchStatus.COLLECTING], page_size=1)
                done.collecting = next(iter(found.batches), None)


async def _reached(client: ClickstreamClient) -> None:
    """Raise StartFailure if nobody answers: better before a large file is read than after."""
    try:
        await client.list_batches(page_size=1)
    except Unavailable as error:
        what = advice(error) or f": start one with `{program()} serve`, or name another with --target"
        raise StartFailure(
            f"the server at {client.target} does not answer ({error.reason or error.code.name}){what}"
        ) from error


def _said(target: str, error: ClickstreamError) -> str:
    if isinstance(error, ImportAborted):
        return f"the import was stopped: {error.message.removeprefix('the import was stopped: ')}."
    what = "does not answer any more" if isinstance(error, Unavailable) else f"ended the import: {message_of(error)}"
    return f"the server at {target} {what} ({error.reason or error.code.name}){advice(error)}."


def _so_far(accounts: Sequence[FileAccount]) -> str:
    if not any(account.sessions.total or account.events.total for account in accounts):
        return "Nothing was acknowledged yet."
    last = accounts[-1]
    sessions = sum(account.sessions.inserted for account in accounts)
    events = sum(account.events.inserted for account in accounts)
    known = sum(account.sessions.duplicates for account in accounts)
    return (
        f"So far {sessions:,} sessions and {events:,} events were stored, {known:,} sessions were there already; the "
        f"last file was {last.name}."
    )
