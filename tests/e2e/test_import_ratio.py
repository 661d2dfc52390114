"""An import that takes several connections is stopped by the share that failed of all its items, not of one's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from misbehaving import client_of

from clickstream import ImportAborted, ImportItem, ImportSummary
from clickstream.v1 import transfer_service_pb2 as pb
from clickstream_server.config import Settings
from clickstream_server.transfer_servicer import TransferServicer
from harness import PATIENCE_S, opened_dao
from importing import bad, config, each, imported, item

GOOD = [[item(f"{chunk}-{n}", 0) for n in range(100)] for chunk in range(20)]


def with_bad(failed: int, *, of: int = 100, number: int = 0) -> list[ImportItem]:
    return [bad(number * of + n) if n < failed else item(f"with bad {number}-{n}", 0) for n in range(of)]


class Ending(TransferServicer):
    """Ends its connections, one after the other, after so many answers, and those after them not at all."""

    ends_after: tuple[int, ...] = ()
    connections = 0

    async def ImportSessions(  # noqa: N802  # gRPC's name
        self, request_iterator: AsyncIterator[pb.ImportSessionsRequest], context: Any
    ) -> AsyncIterator[pb.ImportSessionsResponse]:
        most, *rest = *self.ends_after, 10**6
        self.ends_after = tuple(rest[:-1])
        self.connections += 1
        async with aclosing(super().ImportSessions(request_iterator, context)) as answers:
            async for answer in answers:
                yield answer
                most -= 1
                if not most:
                    return


class Stopping(TransferServicer):
    """Stops every import before its first chunk."""

    async def ImportSessions(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ImportSessionsRequest], context: Any
    ) -> AsyncIterator[pb.ImportSessionsResponse]:
        yield pb.ImportSessionsResponse(summary=pb.ImportSummary(aborted=True))


@pytest.fixture
async def service(mongodb_uri: str, database: str) -> AsyncIterator[Ending]:
    async with opened_dao(mongodb_uri, Settings(mongodb_database=database)) as dao:
        yield Ending(dao)


async def aborted(service: TransferServicer, chunks: list[list[ImportItem]]) -> tuple[ImportSummary, str]:
    """Import what is stopped; the summary and the error's message."""
    answers: list[Any] = []
    async with client_of(service, patience_s=2 * PATIENCE_S) as client:
        with pytest.raises(ImportAborted) as raised:
            async for answer in client.import_sessions(config(max_failure_ratio=0.1), each(*chunks)):
                answers.append(answer)
    assert [False] * (len(answers) - 1) + [True] == [isinstance(answer, ImportSummary) for answer in answers]
    return answers[-1], raised.value.message


@pytest.mark.parametrize("dry_run", [False, True])
async def test_an_import_that_does_well_as_a_whole_goes_on(service: Ending, *, dry_run: bool) -> None:
    """Where more than the ratio failed of a connection's items, and less of all, the import goes on to its end."""
    service.ends_after = (10,)
    chunks = [*GOOD[:10], with_bad(12), *GOOD[10:]]
    async with client_of(service) as client:
        progress, summary = await imported(client, config(max_failure_ratio=0.1, dry_run=dry_run), *chunks)

    assert list(range(1, 22)) == [one.acked_sequence for one in progress]
    assert (2_100, 12, False) == (summary.processed, summary.sessions.rejected, summary.aborted)
    assert 3 == service.connections


async def test_an_import_of_which_too_many_fail_is_stopped(service: Ending) -> None:
    """An import whose connections are stopped one after the other is stopped once too many failed of all items."""
    service.ends_after = (10,)
    summary, message = await aborted(service, [*GOOD[:10], *(with_bad(50, number=number) for number in range(40))])

    assert summary.aborted
    assert 1_300 <= summary.processed < 5_000
    assert summary.sessions.rejected > 0.1 * summary.processed
    assert f"{summary.sessions.rejected} of {summary.processed} items failed" in message


async def test_short_connections_do_not_hide_that_too_many_fail(service: Ending) -> None:
    """An import is stopped also if none of its connections brought as many items as the service begins to judge at."""
    service.ends_after = (1,) * 10
    summary, message = await aborted(service, [with_bad(20, of=50, number=number) for number in range(10)])

    assert (100, 40, True) == (summary.processed, summary.sessions.rejected, summary.aborted)
    assert "40 of 100 items failed" in message


async def test_the_last_connection_does_not_hide_that_too_many_failed(service: Ending) -> None:
    """An import that ends on a connection that is too short to be judged is judged as a whole all the same."""
    service.ends_after = (1,)
    summary, message = await aborted(service, [with_bad(9, of=90), with_bad(9, of=40, number=1)])

    assert (130, 18, True) == (summary.processed, summary.sessions.rejected, summary.aborted)
    assert "18 of 130 items failed" in message


async def test_a_service_that_stops_without_progress_is_believed(service: Ending) -> None:
    """A stop before anything was processed ends the import, or the client would connect again without end."""
    summary, _ = await aborted(Stopping(service._dao), GOOD)

    assert 0 == summary.processed
