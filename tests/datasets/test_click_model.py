"""The example program that trains a click model, on a batch whose truth is known."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from made import RELEASE_ID, large_events

from clickstream import (
    ImportChunk,
    ImportConfig,
    ImportItem,
    SearchResultItem,
    Session,
    SessionEvent,
    SyncClickstreamClient,
)
from harness import ended

PROGRAM = Path(__file__).parents[2] / "examples" / "train_click_model.py"
EXAMINED = [1.0, 0.7, 0.5, 0.35, 0.2]
ATTRACTS = {f"p-{number}": 0.05 + 0.9 * number / 29 for number in range(30)}
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def search(number: int, random: Random) -> ImportItem:
    """A session in which each result is clicked if it is examined and attracts."""
    shown = random.sample(list(ATTRACTS), len(EXAMINED))
    clicked = [
        found for found, examined in zip(shown, EXAMINED, strict=True) if random.random() < examined * ATTRACTS[found]
    ]
    session_id = f"s-{number}"
    return ImportItem(
        Session(
            session_id=session_id,
            search_query="anything",
            search_results=tuple(SearchResultItem(object_id=found) for found in shown),
            created_at=NOW,
        ),
        [SessionEvent(event_id=found, session_id=session_id, object_id=found, created_at=NOW) for found in clicked],
    )


async def trained(client: SyncClickstreamClient, batch_id: str, *options: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), batch_id, "--target", client.target, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await ended(process)


async def test_it_finds_the_truth(own_client: SyncClickstreamClient) -> None:
    """Trained on made-up clicks, it foretells others better than rates by position do, and finds what was seen."""
    random = Random(1)
    chunks = [ImportChunk(1, [search(number, random) for number in range(1500)])]
    for _ in own_client.import_sessions(ImportConfig(import_id="made"), chunks):
        pass
    code, output, errors = await trained(own_client, own_client.release_batch("r").batch.batch_id)

    assert 0 == code, errors
    assert output.startswith("1,500 sessions, 7,500 results shown, ")
    baseline, model = map(float, re.findall(r"log-likelihood (-\d\.\d+)", output))
    assert model - baseline > 0.03
    examined = list(map(float, output.rpartition(":")[2].split()))
    assert all(abs(found - true) < 0.12 for found, true in zip(examined, EXAMINED, strict=True)), examined


async def test_a_session_that_is_too_large_is_read_with_a_limit(own_client: SyncClickstreamClient) -> None:
    """Where a session's events do not fit into a message, the program names the option with which it reads on."""
    random = Random(2)
    chunks = [ImportChunk(1, [search(number, random) for number in range(100)])]
    for _ in own_client.import_sessions(ImportConfig(import_id="made"), chunks):
        pass
    for start in (0, 80):
        own_client.push_events(large_events(start, start + 80))
    batch_id = own_client.release_batch("r").batch.batch_id
    refused = await trained(own_client, batch_id)
    code, output, errors = await trained(own_client, batch_id, "--events-limit", "5")

    assert (1, "") == refused[:2]
    assert "smaller --events-limit" in refused[2]
    assert (0, "") == (code, errors)
    assert output.startswith("100 sessions, 500 results shown, ")


async def test_too_little_is_said(own_client: SyncClickstreamClient) -> None:
    """A batch without a click is no model, and the program says so."""
    own_client.register_session(Session(session_id="s", search_results=(SearchResultItem(object_id="p"),)))
    code, output, errors = await trained(own_client, own_client.release_batch(RELEASE_ID).batch.batch_id)

    assert (1, "") == (code, output)
    assert "too few to train" in errors


@pytest.mark.parametrize(
    ("batch_id", "said"), [("nope", "there is no batch 'nope'"), ("", "batch_id must not be empty")]
)
async def test_a_batch_that_cannot_be_read_is_said_in_a_line(
    client: SyncClickstreamClient, batch_id: str, said: str
) -> None:
    """What the data set refuses ends the program with one line, not with a traceback."""
    code, output, errors = await trained(client, batch_id)

    assert (1, "") == (code, output)
    assert errors.startswith(said)
    assert 1 == errors.count("\n")
