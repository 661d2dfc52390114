"""A batch as Arrow record batches, and as the frames that are made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from made import RELEVANT, SESSIONS, fill

from clickstream import BatchStatusMismatch, SyncClickstreamClient
from clickstream.datasets import BatchExamples
from clickstream.datasets.arrow import batch_to_arrow
from clickstream.datasets.schema import EXAMPLE


def test_the_rows_are_the_examples(client: SyncClickstreamClient, batch_id: str) -> None:
    """The record batches have the documented schema and, row by row, the very examples, so many to a batch."""
    reader = batch_to_arrow(client, batch_id, rows=100)
    batches = list(reader)

    assert EXAMPLE == reader.schema
    assert [100, 100, len(RELEVANT) - 200] == [batch.num_rows for batch in batches]
    assert list(BatchExamples(client, batch_id)) == [row for batch in batches for row in batch.to_pylist()]


def test_a_frame_of_pandas(client: SyncClickstreamClient, batch_id: str) -> None:
    """pandas gets the sessions with their times to the microsecond, and the amounts exact."""
    frame = batch_to_arrow(client, batch_id).read_pandas()

    assert RELEVANT == list(frame["session_number"])
    assert datetime(2026, 1, 5, 9, 0, 2, tzinfo=UTC) == frame["created_at"][0]
    amounts = [Decimal(done["amount"]) for done in frame["other_events"].explode().dropna()]
    assert Decimal("2.40") == sum(amounts)


def test_a_frame_of_polars(client: SyncClickstreamClient, batch_id: str) -> None:
    """Polars gets the same, and its own expressions reach into the results."""
    frame = pl.from_arrow(batch_to_arrow(client, batch_id).read_all())

    assert RELEVANT == frame["session_number"].to_list()
    clicks = frame.select(pl.col("results").list.eval(pl.element().struct.field("clicks")).list.sum())
    assert len(RELEVANT) == clicks.sum().item()
    assert timedelta(seconds=1) == frame["created_at"][1] - frame["created_at"][0]


def test_irrelevant_sessions_come_if_asked_for(client: SyncClickstreamClient, batch_id: str) -> None:
    """With `include_irrelevant` they are rows, too."""
    assert SESSIONS == batch_to_arrow(client, batch_id, include_irrelevant=True).read_all().num_rows


def test_events_can_be_limited(client: SyncClickstreamClient, batch_id: str) -> None:
    """With `events_limit` rows have so many events at most, and say how many are stored."""
    table = batch_to_arrow(client, batch_id, events_limit=0).read_all()

    assert [[]] * len(RELEVANT) == table["clicks"].to_pylist() == table["other_events"].to_pylist()
    assert {1, 2} == set(table["event_count"].to_pylist())


def test_a_collecting_batch_is_refused_at_once(own_client: SyncClickstreamClient) -> None:
    """A batch that collects raises BatchStatusMismatch before anything is read."""
    fill(own_client, [2])
    with pytest.raises(BatchStatusMismatch):
        batch_to_arrow(own_client, own_client.list_batches().batches[0].batch_id)


@pytest.mark.parametrize("rows", [0, -1])
def test_record_batches_have_rows(client: SyncClickstreamClient, batch_id: str, rows: int) -> None:
    """A number of rows with which nothing would come is refused: no pass is silently short."""
    with pytest.raises(ValueError, match="rows"):
        batch_to_arrow(client, batch_id, rows=rows)


def test_a_batch_without_examples_has_the_schema(own_client: SyncClickstreamClient) -> None:
    """A batch of which all sessions are irrelevant is a table without rows, but with all columns."""
    fill(own_client, [1])
    table = batch_to_arrow(own_client, own_client.release_batch("r").batch.batch_id).read_all()

    assert (0, EXAMPLE) == (table.num_rows, table.schema)
