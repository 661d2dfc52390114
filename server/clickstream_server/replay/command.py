"""The command `clickstream replay`: read a log, send it, print the account."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from rich.console import Console

from clickstream.client import ClickstreamClient
from clickstream.errors import ClickstreamError, Unavailable
from clickstream.models import SessionBatch, SessionBatchStatus
from clickstream_server.failures import StartFailure
from clickstream_server.replay.account import Account
from clickstream_server.replay.feed import feed
from clickstream_server.replay.lines import ByteLines
from clickstream_server.replay.report import print_account, print_batches, replay_progress
from clickstream_server.replay.spool import Spool, spooled
from clickstream_server.sample import sample_log

STDIN = "-"
SAFE_AGAIN = "Running the same command again is safe: what is stored by now counts as a duplicate then."


@dataclass(frozen=True, slots=True)
class Source:
    """A log to be read: its name for people, its bytes, and how many they are if that is known."""

    name: str
    stream: ByteLines
    size: int | None


@contextmanager
def opened_source(file: str, sample_queries: int | None) -> Iterator[Source]:
    """The log to read: a generated one, standard input, or a file. Raises StartFailure."""
    if sample_queries is not None:
        log = sample_log(sample_queries)
        yield Source(f"a generated log of {sample_queries:,} queries", BytesIO(log), len(log))
    elif file == STDIN:
        yield Source("standard input", _Readable("standard input", sys.stdin.buffer), None)
    else:
        try:
            stream = Path(file).open("rb")  # noqa: SIM115  # its own errors must not be taken for those of the caller
        except OSError as error:
            raise _unreadable(file, error) from error
        with stream:
            size = os.fstat(stream.fileno()).st_size
            yield Source(file, _Readable(file, stream), size or None)  # a pipe has no size


class _Readable:
    """A stream whose reading errors say which log it was."""

    def __init__(self, name: str, stream: ByteLines) -> None:
        self._name = name
        self._stream = stream

    def readline(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.readline(size)
        except OSError as error:
            raise _unreadable(self._name, error) from error


def _unreadable(name: str, error: OSError) -> StartFailure:
    return StartFailure(f"cannot read {name}: {error.strerror or error}")


def replay(*, target: str, file: str, sample_queries: int | None) -> int:
    """Feed a log to the server at `target`; return the exit code. Raises StartFailure.

    Reading is plain blocking code outside of any event loop, so that Ctrl-C ends it at once.
    """
    account = Account()
    sending = False
    try:
        with opened_source(file, sample_queries) as source, replay_progress() as progress:
            asyncio.run(_reached(target))
            progress.reading(source.size)
            with spooled(source.stream, account, progress.read) as spool:
                sending = True
                progress.sending(account)
                collecting = asyncio.run(_sent(target, spool, account, lambda: progress.sent(account)))
    except ClickstreamError as error:
        raise StartFailure(f"{_said(target, error)} {_so_far(account, sending=sending)} {SAFE_AGAIN}") from error
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted. {_so_far(account, sending=sending)} {SAFE_AGAIN}") from None
    console = Console(highlight=False)
    print_account(console, account, source.name)
    print_batches(console, account, collecting)
    if account.lines and not account.query_rows + account.event_rows:
        raise StartFailure(f"nothing in {source.name} is a row of a search log in the UBI format")
    return 1 if account.disagreements() else 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with how far it had got. The message is shown as it is."""


async def _reached(target: str) -> None:
    """Raise StartFailure if nobody answers: better before a large log is read than after."""
    try:
        async with ClickstreamClient(target) as client:
            await client.list_batches(page_size=1)
    except Unavailable as error:
        raise StartFailure(
            f"the server at {target} does not answer ({error.reason or error.code.name}): start one with "
            "`clickstream serve`, or name another with --target"
        ) from error


async def _sent(target: str, spool: Spool, account: Account, advance: Callable[[], None]) -> SessionBatch | None:
    """Send everything; return the batch that collects then."""
    async with ClickstreamClient(target) as client:
        await feed(client, spool, account, advance)
        found = await client.list_batches(statuses=[SessionBatchStatus.COLLECTING], page_size=1)
    return found.batches[0] if found.batches else None


def _said(target: str, error: ClickstreamError) -> str:
    what = "does not answer any more" if isinstance(error, Unavailable) else f"ended the replay: {error.message}"
    return f"the server at {target} {what} ({error.reason or error.code.name})."


def _so_far(account: Account, *, sending: bool) -> str:
    if not sending:
        return "Nothing was sent yet."
    return (
        f"So far {account.sessions.total:,} of {account.queries:,} queries and "
        f"{account.events_sent:,} of {account.event_rows:,} events were sent."
    )
