"""Tables and colours on standard output."""

from __future__ import annotations

from typing import Any

from rich import console

from clickstream_server.printing import printing


class Console(console.Console):
    """As rich has it, on standard output, with `printing`: rich ends the program where a reader went away, silently."""

    def print(self, *objects: Any, **options: Any) -> None:
        with printing():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  # the BrokenPipeError that it is called for
