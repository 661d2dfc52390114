"""A worker whose event loop stands still is ended, so that another takes its place.

It would keep its port: the kernel goes on giving it connections, and nobody answers there.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_LOOK_EVERY_S = 1.0
_SILENT_LOOKS_MAX = 60
"""As long as the liveness probe of deploy/kubernetes waits. A loop that is merely busy comes round many times in it."""
_SHOWN_S = 1.0
"""How long it may take to print where it stands."""
_log = logging.getLogger(__name__)


class Watch:
    """Of one worker that serves, which says something once a second.

    What counts is how often nothing had come, and not the time: where the supervisor gets no processor either, or stood
    still itself, that is no fault of the worker's.
    """

    def __init__(self) -> None:
        self._silent = 0

    def heard(self) -> None:
        """The worker has said something."""
        self._silent = 0

    async def silence(self) -> None:
        """Return once it has said nothing for so long that it hangs."""
        while self._silent < _SILENT_LOOKS_MAX:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._silent += 1


@asynccontextmanager
async def watched(number: int, process: asyncio.subprocess.Process) -> AsyncIterator[Watch]:
    """Inside, end the worker if it hangs. It prints where it stands before that, if it can."""
    watch = Watch()
    watching = asyncio.create_task(_end_if_it_hangs(number, process, watch))
    try:
        yield watch
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _end_if_it_hangs(number: int, process: asyncio.subprocess.Process, watch: Watch) -> None:
    await watch.silence()
    _log.error(
        "worker %d (process %d) hangs: it said nothing for %g s. It shows where it stands, if it can, and is killed",
        *(number, process.pid, _SILENT_LOOKS_MAX * _LOOK_EVERY_S),
    )
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGUSR1)  # see `process.show_where_it_stands`
        await asyncio.sleep(_SHOWN_S)
        process.kill()
