"""What callers keep while servers are updated: page tokens, resume tokens and checkpoints stay what they are.

A form that has to change is to be read in its old form, too, for as long as docs/compatibility.md says.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest

from clickstream import ClickstreamClient, ExportAccount, ExportFilter, ExportPage, Money, Session, SessionBatchStatus
from clickstream.datasets.plan import Shard, Shuffle
from clickstream.values import micros_from_datetime

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LATE_MICROS = 4_102_444_800_000_000
STATUSES = (SessionBatchStatus.RELEASED, SessionBatchStatus.ARCHIVED)
NARROW = ExportFilter(
    session_ids=("s", "t"),
    user_id="u",
    created_from=FIRST,
    created_to=datetime(2026, 2, 1, microsecond=1, tzinfo=UTC),
    event_types=("click",),
    exclude_irrelevant=True,
)
KEYS = [
    (ExportFilter(), None, "4476480a59831568"),
    (ExportFilter(), 2, "491102f08ca219e2"),
    (NARROW, None, "fea9f759b31ab0f3"),
]
SO_FAR = {
    "position": [1_767_225_600_000_000, "s"],
    "sessions": 2,
    "events": 3,
    "totals": [["EUR", "0.30"]],
    "digest": bytes(range(32)).hex(),
}
"""Where an export stood that had sent two sessions."""


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


async def exported(client: ClickstreamClient, chosen: ExportFilter, limit: int | None, token: str) -> ExportPage:
    """The last page of an export that goes on from this token."""
    return [page async for page in client.export_sessions(chosen, events_limit=limit, resume_token=token)][-1]


async def test_a_list_of_batches_goes_on_at_another_version(client: ClickstreamClient) -> None:
    """A page token that was given out before is taken, and those that are given out now have its form."""
    for name in ("r", "s"):
        await client.register_session(Session(session_id=name))
        await client.release_batch(name)
    rest = await client.list_batches(statuses=STATUSES, page_token=packed(f"ARCHIVED,RELEASED:{LATE_MICROS}:b"))
    first = await client.list_batches(statuses=STATUSES, page_size=1)
    newest = first.batches[0]

    assert ["s", "r"] == [batch.release_id for batch in rest.batches]
    micros = micros_from_datetime(newest.created_at)
    assert packed(f"ARCHIVED,RELEASED:{micros}:{newest.batch_id}") == first.next_page_token


@pytest.mark.parametrize(("chosen", "events_limit", "key"), KEYS)
async def test_an_export_goes_on_at_another_version(
    client: ClickstreamClient, chosen: ExportFilter, events_limit: int | None, key: str
) -> None:
    """A resume token that was given out before is taken with the filter that it belongs to, and is given out again."""
    position = ["s"] if chosen.session_ids else SO_FAR["position"]
    kept = packed(json.dumps({"filter": key, **SO_FAR, "position": position}))
    page = await exported(client, chosen, events_limit, kept)

    assert kept == page.resume_token
    assert ExportAccount(2, 3, (Money(currency_code="EUR", amount="0.30"),), bytes(range(32))) == page.trailer


def test_a_checkpoint_means_the_same_at_another_version() -> None:
    """A shuffled order stays what it is: a checkpoint says how much of it was read, and not what."""
    windows = Shuffle(seed=7, epoch=1, buffer_size=16).windows(40, Shard(1, 2, 0, 1).places(40))
    first, second = (list(window.numbers) for window in windows)

    assert [19, 37, 25, 27, 17, 13, 12, 11, 16, 15, 28, 38, 20, 26, 14, 18] == first
    assert [36, 4, 3, 35] == second
