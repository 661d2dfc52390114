"""Reading numbers of a sealed batch, each accounted for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from itertools import islice
from threading import Thread
from typing import TypeVar

from clickstream.datasets.plan import Span
from clickstream.errors import BatchNotFound, BatchStatusMismatch
from clickstream.models import SessionBatch
from clickstream.sync_client import SyncClickstreamClient
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.session_pb2 import SessionWithEvents

S = TypeVar("S")
T = TypeVar("T")
READ_AHEAD = 2


class IncompleteEpoch(RuntimeError):
    """What came does not account for every number that was to be read. Training on it would be on less than it says."""


def sealed_batch(client: SyncClickstreamClient, batch_id: str) -> SessionBatch:
    """The batch. Raises BatchNotFound; BatchStatusMismatch while it collects, since its numbers are not final."""
    batch = client.get_batch(batch_id)
    if batch is None:
        raise BatchNotFound.by_id(batch_id)
    if not batch.sealed:
        raise BatchStatusMismatch(
            f"the batch {batch_id!r} is still collecting, so that a data set of it would have no certain end: "
            "release it first"
        )
    return batch


def read_span(
    client: SyncClickstreamClient, batch_id: str, span: Span, events_limit: int | None = None
) -> Generator[SessionWithEvents, None, None]:
    """The sessions with these numbers that are still in the batch, in order, irrelevant ones too, as messages.

    Each comes with its first `events_limit` events (None: all).

    A number that is missing was moved on by UpdateSession: the server says how far it has read, and it has read past
    that number. Raises IncompleteEpoch if the stream ends, or repeats itself, before it has read as far as asked;
    MessageTooLarge at a session that does not fit into a message with its events.
    """
    reached = span.first - 1
    request = pb.GetBatchSessionsRequest(
        batch_id=batch_id, after_number=reached, limit=len(span.numbers), events_limit=events_limit
    )
    with closing(client._batch_messages(request)) as pages:  # noqa: SLF001  # of the same package
        for page in pages:
            for found in page.sessions:
                if found.session_number > span.last:
                    return
                if found.session_number <= reached:
                    raise IncompleteEpoch(f"number {found.session_number} came after number {reached}")
                reached = found.session_number
                yield found
            reached = max(reached, page.last_number)
            if reached >= span.last:
                return
    raise IncompleteEpoch(
        f"the batch {batch_id!r} was to be read from number {span.first} to {span.last}, and the stream ended at "
        f"number {reached}"
    )


def ahead(read: Callable[[S], T], wanted: Iterable[S]) -> Generator[T, None, None]:
    """`read` of each in turn, READ_AHEAD of them at work in threads: so the server works while the caller does.

    A program that ends does not wait for these threads, as it would for those of a ThreadPoolExecutor: what they read
    may not come as long as the server is away.
    """
    left = iter(wanted)
    running = deque(_begun(read, one) for one in islice(left, READ_AHEAD))
    while running:
        done = running.popleft().result()
        running.extend(_begun(read, one) for one in islice(left, 1))
        yield done


def _begun(read: Callable[[S], T], one: S) -> Future[T]:
    done: Future[T] = Future()
    Thread(target=_run, args=(read, one, done), name="clickstream-read", daemon=True).start()
    return done


def _run(read: Callable[[S], T], one: S, done: Future[T]) -> None:
    try:
        done.set_result(read(one))
    except BaseException as error:  # whoever asks for the result gets it
        done.set_exception(error)
        del read, one, done  # the error's traceback holds this frame, and would hold itself by it, and the client
