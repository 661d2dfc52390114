"""The command `clickstream export`: sessions with their events into a file that is whole or does not have its name."""

from __future__ import annotations

import asyncio
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import astuple, dataclass
from hashlib import sha256
from time import monotonic
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from clickstream.access import Access
from clickstream.client import ClickstreamClient
from clickstream.errors import ClickstreamError, Unavailable
from clickstream.export import ExportAccount, ExportFilter, account_from_fields, fields_from_account
from clickstream.models import SessionBatch, SessionWithEvents
from clickstream.values import MESSAGE_BYTES_MAX
from clickstream_server.bulk.formats import WRITERS, Writer
from clickstream_server.bulk.outputs import STDOUT, Output, Written, compressed, has_part, part_of, state_of
from clickstream_server.bulk.progress import BulkProgress, bulk_progress
from clickstream_server.bulk.report import shown
from clickstream_server.failures import StartFailure
from clickstream_server.reach import advice, message_of
from clickstream_server.waiting import interruptible


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the command line says."""

    access: Access
    chosen: ExportFilter
    events_limit: int | None
    format: str
    output: str
    with_place: bool
    resume: bool
    message_bytes_max: int = MESSAGE_BYTES_MAX

    @property
    def resumable(self) -> bool:
        """Whether what is written of it can be gone on with: text, in a file of its own, as it is."""
        return has_part(self.output) and self.format != "parquet" and not compressed(self.output)

    @property
    def key(self) -> str:
        """Tells whether a part belongs to this export."""
        what = (astuple(self.chosen), self.events_limit, self.format, self.with_place)
        return sha256(repr(what).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Place:
    """How far an export is: the account, the token to go on with, what is in the file."""

    account: ExportAccount
    token: str
    written: Written


class _Share:
    """How much of an export is done, where that can be known: of its batch's numbers, or of the ids asked for."""

    def __init__(self, ids: Sequence[str], batch: SessionBatch | None) -> None:
        self._ids = [] if batch is not None else sorted(set(ids))
        self.total = len(self._ids) or None if batch is None else batch.session_counter

    @classmethod
    async def of(cls, chosen: ExportFilter, client: ClickstreamClient) -> Self:
        return cls(chosen.session_ids, await client.get_batch(chosen.batch_id) if chosen.batch_id else None)

    def place_of(self, last: SessionWithEvents) -> int:
        """How far it is with this session: both orders are those in which they are exported."""
        return bisect_right(self._ids, last.session.session_id) if self._ids else last.session_number


def export(options: ExportOptions) -> int:
    """Export; return the exit code. Raises StartFailure."""
    if options.format == "parquet" and compressed(options.output):
        raise StartFailure("Parquet is compressed in itself: name the file without .gz or .zst")
    if options.resume and not options.resumable:
        raise StartFailure("--resume goes on with a file of jsonl or csv that is not compressed")
    place = _kept_place(options) if options.resume else None
    output = Output(options.output, behind=None if place is None else place.written)
    started = monotonic()
    try:
        writer = WRITERS[options.format](output, with_place=options.with_place)
        with bulk_progress(wanted=options.output != STDOUT or not os.isatty(1)) as progress:
            account, digest = asyncio.run(_exported(options, writer, place, progress))
        output.commit()
    except ClickstreamError as error:
        raise StartFailure(f"{_said(options.access.target, error)}. {_left(options, output)}") from error
    except StartFailure as failure:
        raise StartFailure(f"{failure}. {_left(options, output)}") from failure
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted. {_left(options, output)}") from None
    come = account.session_count - (0 if place is None else place.account.session_count)
    _print_summary(
        output.name, account, f"{_digested(options)}: {digest}", rate=come / max(monotonic() - started, 0.001)
    )
    return 0


async def _exported(
    options: ExportOptions, writer: Writer, place: _Place | None, progress: BulkProgress
) -> tuple[ExportAccount, str]:
    """Write everything; return the account, which agrees with the trailer, and the digest of the file."""
    account = ExportAccount() if place is None else place.account
    trailer: ExportAccount | None = None
    size = options.message_bytes_max
    async with ClickstreamClient(**options.access.arguments, message_bytes_max=size) as client:
        share = await _Share.of(options.chosen, client)
        progress.start(options.output, share.total, before=account.session_count)
        pages = client.export_sessions(
            options.chosen, events_limit=options.events_limit, resume_token="" if place is None else place.token
        )
        async with aclosing(pages):
            begun = place is not None
            async for page in pages:
                with interruptible():
                    if not begun:
                        writer.begin()
                        begun = True
                    writer.write(page.sessions)
                account = account.after(page.sessions)
                trailer = page.trailer
                if options.resumable and trailer is None:
                    _keep_place(options, _Place(account, page.resume_token, writer.output.written))
                if page.sessions:
                    progress.reached(share.place_of(page.sessions[-1].session), account.session_count)
    if trailer is None:
        raise StartFailure("the server ended the export without its trailer: it is not complete")
    if trailer != account:
        raise StartFailure("what came does not agree with the server's trailer: it is not complete")
    with interruptible():
        return account, writer.finish(account)


# --- going on ---------------------------------------------------------------------------------------------------------


def _keep_place(options: ExportOptions, place: _Place) -> None:
    content = {
        "target": options.access.target,
        "export": options.key,
        "token": place.token,
        "bytes": place.written.count,
        "sha256": place.written.sha256,
        **fields_from_account(place.account),
    }
    path = state_of(options.output)
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(json.dumps(content))
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise StartFailure(f"cannot write {path}: {error.strerror or error}") from error


def _kept_place(options: ExportOptions) -> _Place | None:
    """Where the export that is to be gone on with stands; None if it had not got anywhere. Raises StartFailure."""
    path, part = state_of(options.output), part_of(options.output)
    if not part.exists():  # somebody removed it
        return None
    try:
        content: Any = json.loads(path.read_text())
        place = _Place(account_from_fields(content), content["token"], Written(content["bytes"], content["sha256"]))
        key, target = content["export"], content["target"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise StartFailure(f"cannot go on: {path} cannot be read; export again without --resume") from error
    if key != options.key:
        raise StartFailure(f"cannot go on: {part} is of an export with other options")
    if target != options.access.target:  # another server would take the token, too, and go on with other sessions
        raise StartFailure(
            f"cannot go on: {part} came from {target}, not from {options.access.target}: if they are the same, give "
            f"--target {target}; else export again without --resume"
        )
    return place


def _left(options: ExportOptions, output: Output) -> str:
    """Give up; say what is left."""
    keep = options.resumable and output.part is not None and output.state.exists()
    output.abandon(keep=keep)
    if keep:
        return f"What came so far stands in {output.part}; the same command with --resume goes on with it."
    return "Nothing was left behind." if output.part is not None else "Do not use what was written."


def _said(target: str, error: ClickstreamError) -> str:
    if isinstance(error, Unavailable):
        return f"the server at {target} does not answer ({error.reason or error.code.name}){advice(error)}"
    return f"the export failed: {message_of(error)} ({error.reason or error.code.name}){advice(error)}"


def _digested(options: ExportOptions) -> str:
    """Of what the digest is: who compares it with that of the file has to know."""
    if options.format == "jsonl":
        return "sha256 of the lines before the trailer"
    return "sha256 before compression" if compressed(options.output) else "sha256"


def _print_summary(name: str, account: ExportAccount, digest: str, *, rate: float) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    totals = ", ".join(f"{total.text} {total.currency_code}" for total in account.totals) or "none"
    console.print(Text(f"Exported to {shown(name)}: complete, agrees with the server's trailer."))
    if not account.session_count:
        console.print("There is no session in it: none is what was asked for.")
    console.print(f"{account.session_count:,} sessions, {account.event_count:,} events ({rate:,.0f} sessions a second)")
    console.print(f"totals: {totals}")
    console.print(digest)
