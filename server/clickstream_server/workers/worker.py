"""One worker: it serves on a port that it shares with the others, and ends with its supervisor.

Its stdin is a pipe from the supervisor: first one line, the settings as JSON, so that no secret stands in `ps`; its end
means that the worker is to stop in order. The pipe ends, too, when the supervisor is killed. To stdout goes one line:
SERVING, or FAILED and why; after SERVING a line each second, with what it has counted if anybody wants to know. Without
them it is taken to hang.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from threading import Thread

from clickstream_server import app, event_loop
from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.observe.logs import set_up_logging
from clickstream_server.process import Serving, hangup, show_where_it_stands, use_memory_well
from clickstream_server.waiting import exit_past_threads
from clickstream_server.workers.telling import Teller
from clickstream_server.workers.words import FAILED, HANGS_AFTER_S, SERVING

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_ORPHAN_S = 1.0
"""How long it may take to stop once its supervisor was killed. Whoever starts the next one waits for the ports."""
_LOOK_AGAIN_S = 0.1


def main() -> int:
    """Serve as the worker whose number is given; return the exit code."""
    supervisor, report_to = os.getppid(), os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)  # what any library prints is for people
    show_where_it_stands()
    line = _first_line()
    if not line:
        return 0  # stopped before it was needed
    settings = Settings.model_validate_json(line)
    set_up_logging(settings.log_level, settings.log_format, worker=int(sys.argv[1]))
    use_memory_well()
    try:
        event_loop.run(_serve(settings, supervisor, report_to))
    except StartFailure as failure:
        _report(report_to, f"{FAILED} {' '.join(str(failure).split())}")  # one line, whatever a driver has said
        return 1
    return 0


def _first_line() -> bytes:
    """The first line of stdin, read byte by byte: what is buffered would be lost to `_await_end`."""
    line = b""
    while (byte := os.read(_STDIN, 1)) not in {b"", b"\n"}:
        line += byte
    return line if byte else b""


def _report(report_to: int, line: str) -> None:
    with suppress(BrokenPipeError):  # the supervisor is gone; the end of stdin says so, too
        os.write(report_to, f"{line}\n".encode())


async def _serve(settings: Settings, supervisor: int, report_to: int) -> None:
    loop = asyncio.get_running_loop()
    tellers: list[Teller] = []

    def serves(running: app.Running) -> None:
        _report(report_to, SERVING)
        tellers.append(Teller(report_to, running.counted or _nothing))

    serving = Serving(partial(app.until, share_port=True), settings, serves)
    for number in (signal.SIGINT, signal.SIGTERM, *hangup()):
        loop.add_signal_handler(number, serving.stop)  # who asks the supervisor may ask us, too

    def stop_or_exit() -> None:
        _await_end()
        with suppress(RuntimeError):  # the loop is closed: it has stopped already
            loop.call_soon_threadsafe(serving.stop)
        _outlive(supervisor, settings.drain_s + HANGS_AFTER_S)
        os._exit(1)  # it hangs, and nobody else may be there to kill it

    Thread(target=stop_or_exit, daemon=True).start()
    await serving.ended()
    for teller in tellers:
        await teller.stop()


def _nothing() -> bytes:
    """A line for who wants to know only that we live."""
    return b"\n"


def _await_end() -> None:
    while os.read(_STDIN, 1):
        pass


def _outlive(supervisor: int, timeout_s: float) -> None:
    """Return after that time, or shortly after the supervisor was killed, as it may be while it stops, too.

    The embedded MongoDB is gone by then, so that calls which run would only wait for it.
    """
    give_up_at = time.monotonic() + timeout_s
    while time.monotonic() < give_up_at:
        if os.getppid() != supervisor:
            time.sleep(_ORPHAN_S)
            return
        time.sleep(_LOOK_AGAIN_S)


if __name__ == "__main__":
    code = main()
    exit_past_threads(code)
    sys.exit(code)
