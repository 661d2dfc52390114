"""What a fork does to gRPC: the threads that it runs on are not in the child, so that a call there waits for ever.

That holds even if the parent has closed its connections. So a child whose parent has ever had one is told by an error.
"""

from __future__ import annotations

import os

_user: int | None = None


class ForkedProcess(RuntimeError):
    """A process that had connected to the service was forked, and gRPC cannot work in the child, which gets this."""


def check() -> None:
    """Raise ForkedProcess in a process in which gRPC cannot work."""
    if _user not in (None, os.getpid()):
        raise ForkedProcess(
            f"this process was forked from one (pid {_user}) that had connected to the service, so gRPC cannot work in "
            "it: fork before the first call, or start processes with the method 'spawn' or 'forkserver' (in PyTorch: "
            "DataLoader(..., multiprocessing_context='spawn'))"
        )


def connecting() -> None:
    """To be called before a connection is made. Raises ForkedProcess."""
    global _user  # noqa: PLW0603  # a fact of the process
    check()
    _user = os.getpid()
