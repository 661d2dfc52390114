"""The README's lines are run as printed, in their order, and must print what it says; links must lead somewhere."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pymongo import AsyncMongoClient

from clickstream import Money, Order, SearchResultItem, Session, SessionBatch, SessionEvent, SortBy
from doc_runner import ROOT, Command, Names, Walk, blocks_of, steps_of
from harness import served

README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]

NOT_RUN = {
    "grpcurl -plaintext": "grpcurl does not come with the project, and not every machine has it",
    "CLICKSTREAM_MONGODB_URI=": "no MongoDB has these names; the setting itself is what most tests use",
}
if not find_spec("torch"):
    NOT_RUN[".venv/bin/python loader.py"] = "needs PyTorch, which is large: `make test-torch` has it, and runs it"
if not find_spec("pandas"):
    NOT_RUN[".venv/bin/python frame.py"] = "needs pandas, which cannot be beside an older PyTorch"
"""How the lines begin that are not run, and why not."""


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return Walk(tmp_path, README)


async def test_the_lines_of_the_readme_print_what_it_says(walk: Walk) -> None:
    """Every command of the README, run as printed and in order, prints what stands below it."""
    first, *rest = steps_of(walk.text)
    assert isinstance(first, Command)
    assert "make run" == first.line
    async with walk.make_run(first):
        await walk.follow(rest, list(NOT_RUN))


def test_what_is_not_run_stands_in_the_readme() -> None:
    """The list of lines that are not run names only lines that are there."""
    lines = [step.line for step in steps_of(README.read_text()) if isinstance(step, Command)]

    assert [] == [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)]


BATCH_A, BATCH_B = "20260101T000000Z-aaaaaaaa", "20260202T000000Z-bbbbbbbb"
BATCH_X, BATCH_Y = "20260303T000000Z-cccccccc", "20260404T000000Z-dddddddd"


@pytest.mark.parametrize(
    ("printed", "actual"),
    [
        ("INSERTED as number 1", "INSERTED as number 2"),
        ("one line\n", "one line\nand another\n"),
        ("one line\nand another\n", "one line\n"),
        ("nothing of a batch", f"{BATCH_X}"),
        (f"{BATCH_A} then {BATCH_A}", f"{BATCH_X} then {BATCH_Y}"),
        (f"{BATCH_A} then {BATCH_B}", f"{BATCH_X} then {BATCH_X}"),
    ],
)
def test_a_lie_is_noticed(printed: str, actual: str) -> None:
    """Output that differs in more than names fails, and so does a name that stands for two things or two for one."""
    with pytest.raises(AssertionError):
        Names().check(printed, actual)


def test_names_are_carried_from_one_output_to_the_next_command() -> None:
    """An id that the README shows in an output is this run's id in the commands that follow."""
    names = Names()
    names.check(f"in batch {BATCH_A}", f"in batch {BATCH_X}")

    assert f"read {BATCH_X}" == names.translated(f"read {BATCH_A}")


# --- what is stored -------------------------------------------------------------------------------------------------

FULL_SESSION = Session(
    session_id="s-1",
    search_query="desk lamp",
    search_results=(SearchResultItem(object_id="lamp-3", rank=0.9, meta={"page": 1}),),
    search_meta={"app": "shop"},
    payload_filter={"in_stock": True},
    sort_by=SortBy(field="price", order=Order.ASC),
    user_id="u-1",
    is_irrelevant=True,
    is_payload_search=True,
)
FULL_EVENT = SessionEvent(
    event_id="e-1",
    session_id="s-1",
    object_id="lamp-7",
    event_type="purchase",
    meta={"position": 2},
    value=Money(currency_code="EUR", amount="49.90"),
)

FIELDS = {
    "sessions": Session.model_fields.keys() - {"session_id"},
    "events": SessionEvent.model_fields.keys() - {"event_id", "session_id"},
    "batches": SessionBatch.model_fields.keys() - {"batch_id"},
}
"""What is not in the key."""


@pytest.mark.parametrize("collection", FIELDS)
async def test_documents_have_the_fields_that_the_architecture_page_shows(
    collection: str, mongodb_uri: str, database: str
) -> None:
    """A stored document has the fields of the page's example, in its order, when everything is set."""
    page = ROOT.joinpath("docs", "architecture.md").read_text()
    (example,) = [block.text for block in blocks_of(page) if block.name == collection]
    async with served(mongodb_uri, database) as client:
        await client.register_session(FULL_SESSION)
        await client.push_events([FULL_EVENT])
        await client.release_batch("training-1")

    async with AsyncMongoClient(mongodb_uri) as mongo:
        stored = await mongo[database][collection].find_one()

    assert stored is not None
    assert re.findall(r"^  (\w+):", example, re.MULTILINE) == list(stored)
    assert FIELDS[collection] <= stored.keys(), "the examples of this file have every field"


# --- links ----------------------------------------------------------------------------------------------------------


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _leads_somewhere(page: Path, link: str) -> bool:
    place, _, anchor = link.partition("#")
    target = (page.parent / place).resolve() if place else page
    return target.exists() and target.is_relative_to(ROOT) and (not anchor or anchor in _anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file or a heading of this repository leads to one that is there."""
    links = re.findall(r"\]\(([^)\s]+)\)", _prose(page))

    assert [] == [link for link in links if "://" not in link and not _leads_somewhere(page, link)]


def test_every_decision_is_listed() -> None:
    """The first page of the decisions leads to all others, in order."""
    first, *others = sorted(ROOT.glob("docs/adr/*.md"))

    assert [page.name for page in others] == re.findall(r"^- \[.*\]\((.*)\)$", first.read_text(), re.MULTILINE)


def test_what_must_pass_is_run() -> None:
    """Whatever CONTRIBUTING.md wants to pass before a change is run by .ci/run, but for what it says is not."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    wanted = re.findall(r"^make (\S+)", blocks_of(page)[0].text, re.MULTILINE)
    left_out = re.findall(r"runs them, but for `make (\S+)`", page)
    run = re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)

    assert {"test", "check"} <= set(wanted)
    assert left_out == [target for target in wanted if target not in run]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """Every source file that a page names in code type is a file of this repository, or of the page's own walk."""
    places = [
        path
        for top in ("client", "server", "protos", "tests", "tools", "docs", "benchmarks")
        for path in ROOT.joinpath(top).rglob("*.*")
    ]
    there = {f"/{path.relative_to(ROOT)}" for path in places}
    named = re.findall(r"`([\w./-]+\.(?:py|proto|svg))`", _prose(page))
    saved = {block.name for block in blocks_of(page.read_text()) if block.name}

    assert [] == [name for name in named if name not in saved and not any(path.endswith(f"/{name}") for path in there)]
