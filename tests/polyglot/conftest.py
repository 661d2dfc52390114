"""The languages, built once; and the table of languages and scenarios that stands at the end of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from polyglot.languages import LANGUAGES, Built, Language
from polyglot.programs import Program

READ_BY = ", read by "


@pytest.fixture(autouse=True)
async def no_program_left_behind() -> AsyncIterator[None]:
    yield
    for program in list(Program.alive):
        await program.kill()


@pytest.fixture(scope="session")
async def builds(testrun_uid: str) -> dict[str, Built]:
    """All languages at once: most of a first build is downloading."""
    found = await asyncio.gather(*(language.built(testrun_uid) for language in LANGUAGES))
    return {language.name: build for language, build in zip(LANGUAGES, found, strict=True)}


@pytest.fixture(params=LANGUAGES, ids=str)
def language(request: pytest.FixtureRequest, builds: dict[str, Built]) -> Language:
    """Each language in turn, with its programs built."""
    build = builds[request.param.name]
    request.node.user_properties.append(("build", (request.param.name, build.versions, build.missing)))
    if build.missing:
        pytest.skip(f"{request.param}: {build.missing}")
    assert not build.error, build.error
    return request.param


@pytest.fixture
def readers(language: Language, builds: dict[str, Built]) -> list[Language]:
    """The languages for consumers, beside `language` for the producer: all that there are here."""
    return [language for language in LANGUAGES if builds[language.name].versions]


# --- the table ------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note with each test in which cells of the table its result stands."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "language" not in params:
            continue
        scenario = item.originalname.removeprefix("test_").replace("_", " ")
        readers = [f"{READ_BY}{reader}" for reader in LANGUAGES] if "readers" in item.fixturenames else [""]
        item.user_properties.extend(("cell", (scenario + reader, str(params["language"]))) for reader in readers)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the versions, and the table of scenarios and languages."""
    builds: dict[str, str] = {}
    missing: set[str] = set()
    cells: dict[tuple[str, str], str] = {}
    for outcome, word in {"passed": "ok", "failed": "FAILED", "error": "FAILED", "skipped": "skipped"}.items():
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):  # what was not collected has none
                if name == "cell":
                    cells[tuple(value)] = word
                elif name == "build":
                    builds[value[0]] = value[1] or value[2]
                    missing |= {value[0]} if value[2] else set()
    if not cells:
        return
    # A reader that is not here was left out of tests that passed.
    cells |= {cell: "skipped" for cell in cells if cell[0].rpartition(READ_BY)[2] in missing}
    width = max(len(scenario) for scenario, _ in cells) + 2
    terminalreporter.section("languages and scenarios")
    for language in LANGUAGES:
        terminalreporter.write_line(f"{language.name:8}{builds.get(language.name, '')}")
    terminalreporter.write_line("\n" + " " * width + "".join(f"{language.name:10}" for language in LANGUAGES))
    for scenario in sorted({scenario for scenario, _ in cells}):
        row = [f"{cells.get((scenario, language.name), ''):10}" for language in LANGUAGES]
        terminalreporter.write_line(f"{scenario:{width}}" + "".join(row))
