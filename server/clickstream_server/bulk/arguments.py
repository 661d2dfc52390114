"""The arguments of `clickstream import`, `replay` and `export`. Imports nothing that takes time."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from clickstream_server.reach import access_of

SAMPLE_QUERIES = 200
_SAMPLE_QUERIES_MAX = 100_000  # it is made in memory


def add_import(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "import",
        help="store the sessions and events of files",
        description="Store sessions with their events from files: JSON Lines as `clickstream export` writes them, or "
        "search logs in the OpenSearch UBI format, plain or compressed with gzip or zstd. All of that is recognised "
        "by the content. A row that cannot be stored is refused with its line number, and the others go in.",
        epilog="Exit code: 0 if everything is stored now, 2 if rows were refused or are in conflict with what is "
        "stored, 1 if it could not be done or a file is not whole, 130 after Ctrl-C. A second import of a file stores "
        "nothing twice. To mend refused rows: clickstream import --errors refused.jsonl FILE; "
        "jq -r .row refused.jsonl > mended.jsonl; edit mended.jsonl; clickstream import --partial mended.jsonl.",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="the files, one after the other; - is standard input")
    parser.add_argument("--dry-run", action="store_true", help="check everything, and write nothing")
    parser.add_argument(
        "--atomic",
        action="store_true",
        help="a session and its events stand or fall together, and so do all rows of a query in a search log; events "
        "whose query is not in the log stand alone (default: each session and event on its own)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace what is stored with other content (else it stays: a conflict)"
    )
    parser.add_argument(
        "--max-failure-ratio",
        metavar="R",
        type=_ratio,
        default=0.1,
        help="stop once more than this share of a file's rows failed, judged from 100 rows on; 1 never stops "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--errors",
        metavar="FILE",
        help="write every refused row there, as JSON lines with file, line, reason, row; - is standard output, and the "
        "account then goes to standard error",
    )
    parser.add_argument(
        "--partial", action="store_true", help="the files may be parts of an export: do not ask for its trailer"
    )
    parser.add_argument("--import-id", metavar="ID", default="", help="a name for the server's log")
    parser.set_defaults(run=_import)
    return parser


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1
    if not 0 <= ratio <= 1:
        raise argparse.ArgumentTypeError("must be a number between 0 and 1")
    return ratio


def _import(given: argparse.Namespace) -> int:
    from clickstream.transfer import ImportAtomicity, ImportConfig, ImportMode
    from clickstream_server.bulk.import_command import ImportOptions, import_files

    config = ImportConfig(
        import_id=given.import_id or f"import-{uuid4().hex[:12]}",
        mode=ImportMode.REPLACE_EXISTING if given.replace else ImportMode.SKIP_EXISTING,
        atomicity=ImportAtomicity.PER_SESSION if given.atomic else ImportAtomicity.PER_ITEM,
        max_failure_ratio=given.max_failure_ratio,
        dry_run=given.dry_run,
    )
    options = ImportOptions(
        access=access_of(given),
        config=config,
        partial=given.partial,
        errors=given.errors,
        message_bytes_max=given.message_bytes_max,
    )
    return import_files(given.files, options)


def add_replay(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        help="feed a search log to a server",
        description="Import a search log in the OpenSearch UBI format (NDJSON rows or the bulk form), as `clickstream "
        "import` does, and account for every line. No share of bad rows is too much for it.",
        epilog="Exit code: 0 if every row was stored or refused with a reason (the account says which), 1 if the log "
        "could not be read or the server not be reached, 130 after Ctrl-C. A second replay of a log stores nothing "
        "twice.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", metavar="FILE", nargs="?", help="the log; - reads standard input")
    source.add_argument(
        "--sample",
        metavar="QUERIES",
        nargs="?",
        type=_positive,
        const=SAMPLE_QUERIES,
        help="a small generated log instead (%(const)s queries unless given)",
    )
    parser.set_defaults(run=_replay)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _SAMPLE_QUERIES_MAX:
        raise argparse.ArgumentTypeError(f"must be between 1 and {_SAMPLE_QUERIES_MAX:,}")
    return int(text)


def _replay(given: argparse.Namespace) -> int:
    from clickstream_server.bulk.import_command import replay, sample

    log = given.file if given.sample is None else sample(given.sample)
    return replay(access_of(given), log, message_bytes_max=given.message_bytes_max)


def add_export(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "export",
        help="write sessions with their events to a file",
        description="Write sessions with their events, all or those that agree with every option, in a fixed order. A "
        "file is written as FILE.part and renamed when it is complete and checked against the server's trailer.",
        epilog="Exit code: 0 if the export is complete, 1 if not, 130 after Ctrl-C. What is exported as jsonl can be "
        "imported; exported again it is the same, byte for byte.",
    )
    chosen = parser.add_argument_group("what")
    chosen.add_argument("--batch", metavar="ID", type=not_empty, help="the sessions of this batch, by their numbers")
    chosen.add_argument("--user", metavar="ID", type=not_empty, help="the sessions of this user")
    chosen.add_argument(
        "--session", metavar="ID", type=not_empty, nargs="+", action="extend", default=[], help="these sessions"
    )
    chosen.add_argument("--from", dest="created_from", metavar="T", type=_moment, help="created at this time or later")
    chosen.add_argument(
        "--to",
        dest="created_to",
        metavar="T",
        type=_moment,
        help="created before this time: a date (in UTC), or RFC 3339 such as 2026-11-21T08:00:00Z",
    )
    chosen.add_argument(
        "--event-type", metavar="T", type=not_empty, nargs="+", action="extend", default=[], help="only these events"
    )
    chosen.add_argument("--exclude-irrelevant", action="store_true", help="leave out sessions marked irrelevant")
    chosen.add_argument("--events-limit", metavar="N", type=_count, help="the first N events of a session only")
    how = parser.add_argument_group("how")
    how.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl", help="default %(default)s")
    how.add_argument(
        "--output", metavar="FILE", default="-", help="where to; .gz and .zst are compressed (default: standard output)"
    )
    how.add_argument(
        "--with-place", action="store_true", help="with batch_id, session_number and registered_at of each session"
    )
    how.add_argument("--resume", action="store_true", help="go on with the FILE.part of an export that was broken off")
    parser.set_defaults(run=_export)
    return parser


def not_empty(text: str) -> str:
    """What was given, unless it is nothing, as a variable of the shell that is not set: it must not mean all."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: before the year 1 in UTC
        raise argparse.ArgumentTypeError(f"{text!r} is not a date or a time as in RFC 3339") from None
    if len(text) > len("2026-11-21"):
        raise argparse.ArgumentTypeError(f"{text!r} has no zone: add Z for UTC, or +01:00")
    return moment.replace(tzinfo=UTC)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError("must be a whole number, 0 or more")
    return int(text)


def _export(given: argparse.Namespace) -> int:
    from clickstream.export import ExportFilter
    from clickstream_server.bulk.export_command import ExportOptions, export
    from clickstream_server.bulk.outputs import has_part

    chosen = ExportFilter(
        batch_id=given.batch or "",
        session_ids=tuple(given.session),
        user_id=given.user or "",
        created_from=given.created_from,
        created_to=given.created_to,
        event_types=tuple(given.event_type),
        exclude_irrelevant=given.exclude_irrelevant,
    )
    # Of a symbolic link, the file that it names is written: it would take the link's place when it is complete.
    options = ExportOptions(
        access=access_of(given),
        chosen=chosen,
        events_limit=given.events_limit,
        format=given.format,
        output=os.path.realpath(given.output) if has_part(given.output) else given.output,
        with_place=given.with_place,
        resume=given.resume,
        message_bytes_max=given.message_bytes_max,
    )
    return export(options)
