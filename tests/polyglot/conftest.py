"""The languages, built once; and the table of languages and scenarios that stands at the end of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from polyglot.languages import LANGUAGES, Built, Language
from polyglot.programs import Program

from harness import ServerProcess


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    yield
    for program in list(Program.alive):
        await program.kill()
    for server in list(ServerProcess.alive):
        await server.kill()


@pytest.fixture(scope="session")
async def builds(testrun_uid: str) -> dict[str, Built]:
    """All languages at once: most of a first build is downloading."""
    found = await asyncio.gather(*(language.built(testrun_uid) for language in LANGUAGES))
    return {language.name: build for language, build in zip(LANGUAGES, found, strict=True)}


@pytest.fixture(params=LANGUAGES, ids=str)
def language(request: pytest.FixtureRequest, builds: dict[str, Built]) -> Language:
    """Each language in turn, with its programs built."""
    return _usable(request, request.param, builds)


@pytest.fixture(params=LANGUAGES, ids=str)
def reader(request: pytest.FixtureRequest, builds: dict[str, Built]) -> Language:
    """A language for the consumer, each in turn, where that of the producer is `language`."""
    return _usable(request, request.param, builds)


def _usable(request: pytest.FixtureRequest, language: Language, builds: dict[str, Built]) -> Language:
    build = builds[language.name]
    request.node.user_properties.append(("version", (language.name, build.versions or build.missing)))
    if build.missing:
        pytest.skip(f"{language}: {build.missing}")
    assert not build.error, build.error
    return language


# --- the table ------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note with each test in which row and column of the table its result stands."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "language" in params:
            scenario = item.originalname.removeprefix("test_").replace("_", " ")
            if "reader" in params:
                scenario += f", read by {params['reader']}"
            item.user_properties.append(("cell", (scenario, str(params["language"]))))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the versions, and the table of scenarios and languages."""
    words = {"passed": "ok", "failed": "FAILED", "error": "FAILED", "skipped": "skipped"}
    versions: dict[str, str] = {}
    cells: dict[tuple[str, str], str] = {}
    for outcome, word in words.items():
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == "version":
                    versions[value[0]] = value[1]
                elif name == "cell":
                    cells[tuple(value)] = word
    if not cells:
        return
    names = [language.name for language in LANGUAGES]
    scenarios = sorted({scenario for scenario, _ in cells})
    width = max(map(len, scenarios)) + 2
    terminalreporter.section("languages and scenarios")
    for name in names:
        terminalreporter.write_line(f"{name:8}{versions.get(name, '')}")
    terminalreporter.write_line("")
    terminalreporter.write_line("".join([" " * width, *(f"{name:10}" for name in names)]).rstrip())
    for scenario in scenarios:
        row = [f"{cells.get((scenario, name), '-'):10}" for name in names]
        terminalreporter.write_line("".join([f"{scenario:{width}}", *row]).rstrip())
