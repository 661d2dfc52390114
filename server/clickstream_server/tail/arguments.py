"""The arguments of `clickstream tail`. Imports nothing that takes time."""

from __future__ import annotations

import argparse
from typing import Any

from clickstream_server.bulk.arguments import not_empty
from clickstream_server.reach import access_of


def add_tail(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "tail",
        help="show the sessions of a batch as they come",
        description="Show a batch's sessions in the order of their numbers, a line each, and further ones as they are "
        "committed, until the batch is released: time, number, id, how many results and clicks, query. Goes on by "
        "itself, without a gap, when the server was away. An event that arrives after its session was shown does not "
        "show it again.",
        epilog="Exit code: 0 once the batch is released and all of it was shown, or the reader of the output has gone "
        "away; 1 if it could not be done, 130 after Ctrl-C, which also prints the line to go on with.",
    )
    parser.add_argument(
        "batch", metavar="BATCH", nargs="?", type=not_empty, help="default: the batch that collects now"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--after", metavar="N", type=_count, default=0, help="begin after number N (default: at the start)"
    )
    start.add_argument("--last", metavar="N", type=_count, help="begin with the last N numbers given out so far")
    parser.add_argument(
        "--json", action="store_true", help="an object a line, the same as of clickstream export --with-place"
    )
    parser.add_argument(
        "--events-limit",
        metavar="N",
        type=_events,
        help="the first N events of a session only, and no totals where that leaves out some (default: with --json all "
        "events, which have to fit into a message)",
    )
    parser.set_defaults(run=_tail)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError("must be a whole number, 0 or more")
    return int(text)


def _events(text: str) -> int:
    if (count := _count(text)) >= 2**31:
        raise argparse.ArgumentTypeError("must be less than 2,147,483,648")
    return count


def _tail(given: argparse.Namespace) -> int:
    from clickstream_server.tail.command import TailOptions, tail

    options = TailOptions(
        access_of(given),
        given.batch or "",
        after=given.after,
        last=given.last,
        as_json=given.json,
        events_limit=given.events_limit,
        message_bytes_max=given.message_bytes_max,
    )
    return tail(options)
