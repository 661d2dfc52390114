"""Runs the lines of a page of documentation as printed, and compares what they print with what the page says."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from difflib import ndiff
from pathlib import Path
from typing import NamedTuple

from harness import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
FOLDER_IN_PAGES = "/home/you/clickstream"


class Block(NamedTuple):
    """A fenced block: its language, what else stands beside that, and its text."""

    language: str
    name: str
    text: str


class Command(NamedTuple):
    """A line of a console block and the output that is printed below it."""

    line: str
    output: str


def blocks_of(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def commands_of(console: str) -> list[Command]:
    assert console.startswith("$ "), f"a console block begins with a command: {console!r}"
    return [Command(*part.partition("\n")[::2]) for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]]


def steps_of(page: str) -> Iterator[Command | Block]:
    """What a reader does from top to bottom: commands to run, and blocks with a file name to save."""
    for block in blocks_of(page):
        if block.language == "console":
            yield from commands_of(block.text)
        else:
            assert block.name, f"nothing runs this block, and it has no file name beside its language: {block}"
            yield block


# --- comparing ------------------------------------------------------------------------------------------------------


@dataclass
class Names:
    """What differs from run to run, and what each such thing in a page is called in this run.

    A thing that the page names twice must be one thing in this run, too, and two things must be two.
    """

    actual: dict[str, str] = field(default_factory=dict)

    CHANGING = re.compile(
        r"\d{8}T\d{6}Z-[0-9a-f]{8}"  # a batch's id
        r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"  # a time
        r"|127\.0\.0\.1:\d+"  # an address
        r"|(?<=key id )[0-9a-f]{16}|[0-9a-f]{16}(?=  never)"  # a token's key id
        # the place in an export and its digest, as buf and grpcurl print them
        r"|(?<=\"resumeToken\": \")[^\"]+|(?<=\"resume_token\": \")[^\"]+|(?<=\"sha256\": \")[^\"]+"
    )

    def translated(self, text: str) -> str:
        """The page's text with this run's names."""
        return self.CHANGING.sub(lambda found: self.actual.get(found[0], found[0]), text)

    def check(self, printed: str, actual: str) -> None:
        """Fail unless the output is what is printed, but for names; learn those that are new."""
        for theirs, ours in zip(self.CHANGING.findall(printed), self.CHANGING.findall(actual), strict=False):
            if theirs not in self.actual and ours not in self.actual.values():
                self.actual[theirs] = ours
        expected, found = _even(self.translated(printed)), _even(actual)
        assert expected == found, "\n".join(ndiff(expected.splitlines(), found.splitlines()))


def _even(text: str) -> str:
    """Go's JSON encoder varies white space on purpose, and tables are padded with it; durations differ."""
    text = re.sub(r";dur=\d+\.\d+", ";dur=…", text)
    return "\n".join(re.sub(r"[ \t]+", " ", line).rstrip() for line in text.strip().splitlines())


# --- running --------------------------------------------------------------------------------------------------------


@dataclass
class Walk:
    """A newcomer's walk through a page, in a folder that looks like theirs."""

    folder: Path
    page: Path
    names: Names = field(default_factory=Names)
    target: str = ""
    patience_s: float = 2 * PATIENCE_S

    @property
    def text(self) -> str:
        return self.page.read_text().replace(FOLDER_IN_PAGES, str(self.folder))

    @property
    def path(self) -> str:
        """Where programs are looked for: what `make tools` installs comes first."""
        return f"{self.folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    async def follow(self, steps: Sequence[Command | Block], not_run: Sequence[str]) -> None:
        """Save what is to be saved, and run what is to be run, but for lines that begin with one of `not_run`."""
        for step in steps:
            if isinstance(step, Block):
                (self.folder / step.name).write_text(self.names.translated(step.text))
            elif not step.line.startswith(tuple(not_run)):
                await self.run(step)

    async def run(self, command: Command) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLICKSTREAM_")}
        process = await asyncio.create_subprocess_shell(
            self.names.translated(command.line),
            cwd=self.folder,
            env=environment | {"CLICKSTREAM_TARGET": self.target, "COLUMNS": "120", "PATH": self.path},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(self.patience_s):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        self.check(command, output.decode())

    def check(self, command: Command, output: str) -> None:
        try:
            self.names.check(command.output, output)
        except AssertionError as error:
            error.add_note(f"{self.page.relative_to(ROOT)}, below the line: {command.line}")
            raise

    @asynccontextmanager
    async def make_run(self, command: Command | None = None, *options: str) -> AsyncIterator[None]:
        """What `make run` runs, on a free port and with its data in this folder; `command`: what it is to print."""
        assert re.search(
            r"^run:.*\n\t@exec \$\(BIN\)/clickstream serve$", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
        process = await asyncio.create_subprocess_exec(
            *(".venv/bin/clickstream", "serve", "--listen=127.0.0.1:0", "--ui-listen=127.0.0.1:0"),
            f"--data-dir={self.folder / '.data'}",
            *options,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_S):
                output = (await process.stdout.readuntil(b"stops it.\n")).decode()
            self.target = output.partition("\n")[0].split()[-1]
            if command is None:
                self.names.actual["127.0.0.1:50051"] = self.target
                if metrics := re.search(r"^metrics: http://([^/]+)/metrics$", output, re.MULTILINE):
                    self.names.actual["127.0.0.1:9464"] = metrics[1]
            else:
                # On the default port, which the README has, the server need not name the target.
                self.check(command, output.replace(f" --target {self.target}", ""))
            yield
        finally:
            process.terminate()
            async with asyncio.timeout(PATIENCE_S):
                await process.communicate()
