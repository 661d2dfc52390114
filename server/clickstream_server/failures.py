"""What keeps the program from starting, or from going on, in one line that says what to do."""

from __future__ import annotations


class StartFailure(Exception):
    """The message is shown as it is, without a traceback."""
