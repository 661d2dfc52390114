"""The program `clickstream`: serve, ping, import, export, tail, replay, token, demo."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from clickstream_server import event_loop
from clickstream_server.bulk.arguments import SAMPLE_QUERIES, add_export, add_import, add_replay
from clickstream_server.failures import StartFailure
from clickstream_server.printing import fill_closed_descriptors, printing, say
from clickstream_server.reach import access_of, add_reach, advice, program
from clickstream_server.security.command import add_token
from clickstream_server.tail.arguments import add_tail
from clickstream_server.waiting import exit_past_threads

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code."""
    fill_closed_descriptors()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said by us, in one line; read when grpc loads
    # As Ctrl-C: what ends in order then tells how far it got. `serve` has its own. A shell that starts this with & in a
    # script has Ctrl-C ignored, and SIGTERM would be with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    code = _code_of(arguments)
    exit_past_threads(code)
    return code


def _code_of(arguments: list[str] | None) -> int:
    try:
        given = _parser().parse_args(arguments)  # which takes a moment: Ctrl-C may come in it
        run: Callable[[argparse.Namespace], int | Coroutine[Any, Any, int]] = given.run
        done = run(given)
        return done if isinstance(done, int) else event_loop.run(done)
    except StartFailure as failure:
        print(f"clickstream: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"clickstream: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED


class _Version(argparse.Action):
    """Looks for the version only when it is asked for, which takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        with printing():
            print(f"clickstream {version('clickstream')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clickstream", description="The clickstream service and its tools.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_ping(commands)
    for add in (add_import, add_export, add_replay, add_tail):
        add_reach(add(commands), sized=True)
    add_token(commands)
    _add_demo(commands)
    return parser


def _add_serve(commands: Any) -> None:
    from clickstream_server.config import ENV_PREFIX, Settings

    parser = commands.add_parser("serve", help="run the server", description="Run the server until Ctrl-C.")
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default in (None, "") else f"; default {field.default}"
        text = f"{field.description} ({ENV_PREFIX}{name.upper()}{default})"
        # A flag that is a switch may stand alone, and may have a value as any other.
        value = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text.replace("%", "%%"), **value)
    parser.set_defaults(run=_serve)


def _add_ping(commands: Any) -> None:
    parser = commands.add_parser("ping", help="ask a server whether it serves", description="Ask whether it serves.")
    add_reach(parser)
    parser.add_argument(
        "--service",
        metavar="NAME",
        type=_text,
        default="",
        help="ask for this name of its health; liveness: whether its process works, whatever the database does",
    )
    parser.add_argument("--timeout-s", type=_deadline, default=5.0, help="seconds to wait (default %(default)s)")
    parser.set_defaults(run=_ping)


def _deadline(argument: str) -> float:
    from clickstream.calling import DEADLINE_S_MAX

    try:
        seconds = float(argument)
    except ValueError:
        seconds = -1
    if not 0 < seconds <= DEADLINE_S_MAX:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, more than 0 and {DEADLINE_S_MAX:,} at most")
    return seconds


def _text(argument: str) -> str:
    """What the shell gave, if it can be sent."""
    from clickstream.values import text_fault

    if fault := text_fault(argument):
        raise argparse.ArgumentTypeError(fault)
    return argument


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="the whole way on one screen",
        description="Start a server with a database of its own, replay a log, release the batch, stream it back, check "
        "that it agrees, and leave nothing behind.",
        epilog="Exit code: 0 if everything agrees, 1 if anything does not or cannot be done, 130 after Ctrl-C.",
    )
    parser.add_argument("log", metavar="LOG", nargs="?", help="a log as for replay (without one: a generated log)")
    parser.set_defaults(run=_demo)


async def _serve(given: argparse.Namespace) -> int:
    from clickstream_server.config import Settings, load_settings, mistaken_settings, unknown_settings
    from clickstream_server.files import allow_as_many_as_there_may_be
    from clickstream_server.observe.logs import set_up_logging
    from clickstream_server.process import Serving, hangup, show_where_it_stands, use_memory_well

    show_where_it_stands()
    settings = load_settings({name: getattr(given, name) for name in Settings.model_fields}, os.environ)
    if settings.workers > 1:
        from clickstream_server.workers.supervisor import until
    else:
        from clickstream_server.app import until
    set_up_logging(settings.log_level, settings.log_format)
    for name in unknown_settings(os.environ):
        print(f"clickstream: {name} is not a setting and is ignored", file=sys.stderr)
    for line in mistaken_settings(settings, os.environ):
        print(f"clickstream: {line}", file=sys.stderr)
    use_memory_well()
    allow_as_many_as_there_may_be()  # the workers and the embedded MongoDB have it from us
    serving = Serving(until, settings, _announce)
    in_order = True

    def ask_to_stop() -> None:
        """The first time in order, once more at once."""
        nonlocal in_order
        if serving.stopping:
            in_order = False
            serving.stop_at_once()
        serving.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask_to_stop)
    for number in hangup():  # twice does not mean at once: a terminal that goes away sends it twice
        loop.add_signal_handler(number, serving.stop)
    if not await serving.ended() and not in_order:
        print("clickstream: stopped before everything was done", file=sys.stderr)
        return INTERRUPTED
    say("stopped")
    return 0


def _announce(running: Any) -> None:
    from clickstream.client import DEFAULT_TARGET

    name = program()
    host = running.address
    option = ("" if host == DEFAULT_TARGET else f" --target {host}") + (" --tls" if running.tls else "")
    asked = " and ".join(name for name, wanted in (("TLS", running.tls), ("tokens", running.tokens)) if wanted)
    access = f"needs: {asked} (docs/security.md)\n" if asked else ""
    data = f"{running.embedded_data_dir}  (embedded MongoDB at {running.storage})"
    page = f"page:  {running.page}\n" if running.page else ""
    metrics = f"metrics: {running.metrics}\n" if running.metrics else ""
    say(
        f"clickstream serves on {host}\n"
        f"data:  {data if running.embedded_data_dir else running.storage}\n"
        f"{page}{metrics}{access}"
        f"try:   {name} ping{option}\n"
        f"       {name} replay --sample{option}{' --token-file FILE' if running.tokens else ''}\n"
        "Ctrl-C stops it."
    )


async def _ping(given: argparse.Namespace) -> int:
    import grpc
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from clickstream.call_errors import failure_of
    from clickstream.errors import MissingCredentials

    channel = access_of(given).channel([])
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=given.service), timeout=given.timeout_s)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            print(f"clickstream: {given.target} has no health under the name {given.service}", file=sys.stderr)
            return 1
        why = advice(failure_of(error))
        print(f"clickstream: nobody serves on {given.target} ({error.code().name}){why}", file=sys.stderr)
        return 1
    except MissingCredentials as error:  # before anything was sent
        raise StartFailure(error.message) from error
    finally:
        await channel.close()
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    with printing():
        print(f"{given.service + ' at ' if given.service else ''}{given.target} is {status}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _demo(given: argparse.Namespace) -> int:
    from clickstream_server.demo import demo

    return demo(given.log, sample_queries=SAMPLE_QUERIES)
