"""Standard input, output and error, as whoever starts the program left them: closed, full, or without a reader."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from clickstream_server.failures import StartFailure

_USED_FOR = {0: os.O_WRONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
"""How the descriptors are opened that were closed: input and output so that using them fails, as it should."""


def fill_closed_descriptors() -> None:
    """Keep the numbers 0 to 2 from what is opened next: a connection in the place of 1 would get what is printed."""
    for number, flags in _USED_FOR.items():
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    # print() takes None for standard output, and says nothing where that is None as well
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")


@contextmanager
def printing() -> Iterator[None]:
    """What is printed inside has gone out at its end. Raises StartFailure where it cannot.

    Python would keep it until it ends, and then fail once more, with an exit code of its own.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise StartFailure(f"cannot write standard output: {error.strerror or error}") from error


def say(text: str) -> None:
    """Print it, if that can be: a server goes on without its reader, as in `clickstream serve | grep -q serves`."""
    with suppress(StartFailure), printing():
        print(text)
