"""How many files the process may have open: each connection is one."""

from __future__ import annotations

import errno
import logging
import os
import sys
from time import monotonic

_SAY_EVERY_S = 60.0
_log = logging.getLogger(__name__)


def allow_as_many_as_there_may_be() -> None:
    """Raise the limit to what the system lets us have: most give 1,024 to who does not ask, fewer than our streams."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:  # macOS has a bound of its own below a limit that is none
        _log.info("the limit of open files stays as it is: %s", error)


class OpenFiles:
    """Says when no more can be opened: gRPC then leaves new connections waiting, and metrics cannot be asked for."""

    def __init__(self) -> None:
        self._said_at: float | None = None

    def look(self) -> None:
        """To be called now and then."""
        try:
            os.close(os.dup(0))
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._say()
            return
        if self._said_at is not None:
            _log.warning("files can be opened again")
            self._said_at = None

    def _say(self) -> None:
        now = monotonic()
        if self._said_at is None or now - self._said_at >= _SAY_EVERY_S:
            _log.error(
                "no file can be opened any more: new connections of clients, of Prometheus and to MongoDB wait. "
                "See who has so many, and raise the limit (ulimit -n, LimitNOFILE)"
            )
            self._said_at = now
