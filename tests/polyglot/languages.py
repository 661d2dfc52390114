"""The examples in other languages: how each is built and run, and with which versions."""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from polyglot.programs import Program, run_to_end

ROOT = Path(__file__).resolve().parents[2]
BUILD_S = 300.0
"""How long a build may take that has to download everything."""
NO_NETWORK = re.compile(
    r"dial tcp|no such host|Could not transfer|Unknown host|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH"
    r"|spurious network error|failed to download"
)


@dataclass(frozen=True)
class Built:
    """With which versions a language's programs were built; or why they could not be, or why that went wrong."""

    versions: str = ""
    missing: str = ""
    error: str = ""


@dataclass(frozen=True)
class Language:
    """`build`: the line of the language's page that builds the programs. `producer`, `consumer`: the commands that run
    them in the language's folder. `version`: the command that prints the language's. `pinned`: those of its libraries.
    """

    name: str
    needs: tuple[str, ...]
    build: str
    producer: tuple[str, ...]
    consumer: tuple[str, ...]
    version: tuple[str, ...]
    pinned: Callable[[Path], str]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return ROOT / "examples" / self.name.lower()

    async def produce(self, target: str, **flags: object) -> Program:
        return await self._start(self.producer, target, flags)

    async def consume(self, target: str, **flags: object) -> Program:
        return await self._start(self.consumer, target, flags)

    async def _start(self, command: tuple[str, ...], target: str, flags: dict[str, object]) -> Program:
        arguments = [f"--{name}={value}" for name, value in {"target": target, **flags}.items()]
        return await Program.start(*command, *arguments, cwd=self.folder)

    async def built(self, run: str) -> Built:
        """Build it once in this run of the tests, whichever test process comes first."""
        for program in self.needs:
            if shutil.which(program) is None:
                return Built(missing=f"needs {program}, which is not on PATH")
        async with _locked(ROOT / "build" / "polyglot" / self.name) as done:
            if not done.exists() or done.read_text() != run:
                code, output = await run_to_end("sh", "-c", self.build, cwd=ROOT, patience_s=BUILD_S)
                if code != 0 and NO_NETWORK.search(output):
                    return Built(missing=f"{self.needs[-1]} cannot download what it needs")
                if code != 0:
                    return Built(error=f"{self.build}: exit code {code}\n{output}")
                done.write_text(run)
        _, version = await run_to_end(*self.version, cwd=self.folder)
        return Built(versions=f"{version.strip()}, {self.pinned(self.folder)}")


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[Path]:
    """Hold this file, in which one test process at a time notes what it has built."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield path


def _go_versions(folder: Path) -> str:
    found = dict(re.findall(r"^\t(\S+) (v[\d.]+)$", (folder / "go.mod").read_text(), re.MULTILINE))
    return f"grpc-go {found['google.golang.org/grpc']}, protobuf-go {found['google.golang.org/protobuf']}"


def _node_versions(folder: Path) -> str:
    package = json.loads((folder / "package.json").read_text())
    found = package["dependencies"] | package["devDependencies"]
    return f"grpc-js {found['@grpc/grpc-js']}, ts-proto {found['ts-proto']}, typescript {found['typescript']}"


def _java_versions(folder: Path) -> str:
    found = dict(re.findall(r"<(grpc|protobuf)\.version>(.*?)<", (folder / "pom.xml").read_text()))
    return f"grpc-java {found['grpc']}, protobuf-java {found['protobuf']}"


def _rust_versions(folder: Path) -> str:
    found = dict(re.findall(r'^([\w-]+) = .*?"=([\d.]+)"', (folder / "Cargo.toml").read_text(), re.MULTILINE))
    return f"tonic {found['tonic']}, prost {found['prost']}"


JAVA = ("java", "-cp", "target/classes:target/lib/*")
LANGUAGES = (
    Language(
        name="Go",
        needs=("go",),
        build="cd examples/go && go build -o bin/ ./...",
        producer=("bin/producer",),
        consumer=("bin/consumer",),
        version=("go", "env", "GOVERSION"),
        pinned=_go_versions,
    ),
    Language(
        name="Node",
        needs=("node", "npm"),
        build="cd examples/node && npm ci && npm run build",
        producer=("node", "dist/producer.js"),
        consumer=("node", "dist/consumer.js"),
        version=("node", "--version"),
        pinned=_node_versions,
    ),
    Language(
        name="Java",
        needs=("javac", "mvn"),
        build="mvn -q -B -f examples/java compile",
        producer=(*JAVA, "clickstream.examples.Producer"),
        consumer=(*JAVA, "clickstream.examples.Consumer"),
        version=("javac", "-version"),
        pinned=_java_versions,
    ),
    Language(
        name="Rust",
        needs=("cc", "cargo"),
        build="cd examples/rust && cargo build --quiet",
        producer=("target/debug/producer",),
        consumer=("target/debug/consumer",),
        version=("rustc", "--version"),
        pinned=_rust_versions,
    ),
)
