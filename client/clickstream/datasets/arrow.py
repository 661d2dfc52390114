"""A sealed batch as Arrow record batches, and so as a frame of pandas or Polars. Needs the extra `[arrow]`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa  # type: ignore[import-untyped]  # it has no types

from clickstream.datasets.batch import BatchExamples
from clickstream.datasets.schema import EXAMPLE
from clickstream.sync_client import SyncClickstreamClient


def batch_to_arrow(
    client: SyncClickstreamClient,
    batch_id: str,
    *,
    rows: int = 1024,
    include_irrelevant: bool = False,
    events_limit: int | None = None,
) -> pa.RecordBatchReader:
    """The examples of a sealed batch by number, as record batches of so many rows each; a few are in memory at a time.

        reader = batch_to_arrow(SyncClickstreamClient("127.0.0.1:50051"), batch_id)
        frame = reader.read_pandas()                # or polars.from_arrow(reader.read_all())

    The columns are those of `schema.EXAMPLE`. The other options are those of `BatchExamples`, and so are the errors:
    BatchNotFound and BatchStatusMismatch at once, the rest while it is read.
    """
    if rows < 1:
        raise ValueError("rows must be at least 1")
    examples = iter(BatchExamples(client, batch_id, include_irrelevant=include_irrelevant, events_limit=events_limit))

    def record_batches() -> Iterator[pa.RecordBatch]:
        while chunk := list(islice(examples, rows)):
            yield pa.RecordBatch.from_pylist(chunk, schema=EXAMPLE)

    return pa.RecordBatchReader.from_batches(EXAMPLE, record_batches())
