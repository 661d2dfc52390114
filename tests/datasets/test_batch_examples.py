"""BatchExamples on a real server: every number accounted for, in order or shuffled, whole or shared, and resumed."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from made import IRRELEVANT, RELEVANT, SESSIONS, fill, large_events, session

from clickstream import (
    BatchNotFound,
    BatchStatusMismatch,
    InvalidField,
    MessageTooLarge,
    SessionBatchStatus,
    SyncClickstreamClient,
)
from clickstream.datasets import BatchExamples, Example, IncompleteEpoch, Shard
from clickstream.v1 import batch_pb2 as pb_batch
from clickstream.v1 import clickstream_service_pb2 as pb
from clickstream.v1.clickstream_service_pb2_grpc import (
    ClickstreamServiceServicer,
    add_ClickstreamServiceServicer_to_server,
)
from harness import PATIENCE_S

SHUFFLED = {"shuffle": True, "seed": 1, "buffer_size": 50}
ORDERS = pytest.mark.parametrize("order", [{}, SHUFFLED], ids=["in order", "shuffled"])


def numbers(examples: Iterable[Example]) -> list[int]:
    return [example["session_number"] for example in examples]


# --- every session once ---------------------------------------------------------------------------------------------


def test_a_batch_is_read_by_number(client: SyncClickstreamClient, batch_id: str) -> None:
    """Every session that is not irrelevant comes once, by number, with its clicks; the account says so."""
    data = BatchExamples(client, batch_id)
    examples = list(data)

    assert RELEVANT == numbers(examples)
    assert all([0, 1, 0] == [result["clicks"] for result in example["results"]] for example in examples)
    assert ["0.10"] * (SESSIONS // 10 - 1) == [done["amount"] for found in examples for done in found["other_events"]]
    account = data.account
    assert (SESSIONS, len(RELEVANT), len(IRRELEVANT), 0, 0) == (
        *(account.numbers, account.examples, account.irrelevant, account.moved, account.left),
    )


@ORDERS
def test_irrelevant_sessions_come_if_asked_for(client: SyncClickstreamClient, batch_id: str, order: Any) -> None:
    """With `include_irrelevant` every session comes, and says which it is."""
    examples = list(BatchExamples(client, batch_id, include_irrelevant=True, **order))

    assert list(range(1, SESSIONS + 1)) == sorted(numbers(examples))
    assert IRRELEVANT == {found["session_number"] for found in examples if found["is_irrelevant"]}


def test_events_can_be_limited(client: SyncClickstreamClient, batch_id: str) -> None:
    """With `events_limit` an example has its session's first events only, and says how many are stored."""
    first = list(BatchExamples(client, batch_id, events_limit=1))
    none = list(BatchExamples(client, batch_id, events_limit=0))
    stored = [2 if number % 10 == 0 else 1 for number in RELEVANT]

    assert RELEVANT == numbers(first) == numbers(none)
    assert stored == [example["event_count"] for example in first] == [example["event_count"] for example in none]
    assert {(1, 0)} == {(len(example["clicks"]), len(example["other_events"])) for example in first}
    assert not any(example["clicks"] or example["other_events"] for example in none)
    for wrong in (-1, 2**31):
        with pytest.raises(ValueError, match="events_limit"):
            BatchExamples(client, batch_id, events_limit=wrong)


@ORDERS
def test_a_pass_goes_on_past_a_session_that_is_too_large(own_client: SyncClickstreamClient, order: Any) -> None:
    """A session with more events than a message holds ends a pass, which goes on from there with `events_limit`."""
    fill(own_client, range(2, 40))
    own_client.push_events(large_events(0, 80))
    own_client.push_events(large_events(80, 160))
    batch_id = own_client.release_batch("r").batch.batch_id
    data = BatchExamples(own_client, batch_id, **order)
    before = []
    with pytest.raises(MessageTooLarge, match="smaller events_limit"):
        before.extend(iter(data))
    other = BatchExamples(own_client, batch_id, events_limit=2, **order)
    other.load_state_dict(data.state_dict())
    after = list(other)

    assert list(range(1, 39)) == sorted(numbers(before) + numbers(after))
    assert [(1, 1, 162)] == [
        (len(found["clicks"]), len(found["other_events"]), found["event_count"])
        for found in after
        if found["session_id"] == "s-20"
    ]


def test_a_shuffled_pass_is_one_order_of_all(client: SyncClickstreamClient, batch_id: str) -> None:
    """A shuffled pass has every session once, the same order for the same seed and epoch, and another in another."""
    data = BatchExamples(client, batch_id, **SHUFFLED)
    first, again = numbers(data), numbers(data)
    data.set_epoch(1)
    second = numbers(data)

    assert RELEVANT == sorted(first) == sorted(second)
    assert first == again
    assert 3 == len({tuple(first), tuple(second), tuple(RELEVANT)})


@ORDERS
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 3), (2, 2), (3, 1), (5, 60)])
def test_the_readers_share_a_batch(
    client: SyncClickstreamClient, batch_id: str, order: Any, world_size: int, num_workers: int
) -> None:
    """All readers together have every session once, also if there are more readers than sessions."""
    shards = [
        Shard(rank, world_size, worker, num_workers) for rank in range(world_size) for worker in range(num_workers)
    ]
    shared = [numbers(BatchExamples(client, batch_id, shard=shard, **order)) for shard in shards]

    assert RELEVANT == sorted(number for part in shared for number in part)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@ORDERS
@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2, 0, 2)], ids=["whole", "shared"])
def test_a_pass_goes_on_from_any_example(
    client: SyncClickstreamClient, batch_id: str, order: Any, shard: Shard
) -> None:
    """From the checkpoint after any example, in another data set and by way of JSON, just the rest comes, in order."""
    data = BatchExamples(client, batch_id, shard=shard, **order)
    data.set_epoch(3)
    expected, states = [], []
    for example in data:
        expected.append(example["session_number"])
        states.append(json.dumps(data.state_dict()))

    for done in [*range(0, len(states), 23), len(states) - 1]:
        other = BatchExamples(client, batch_id, shard=shard, **order)
        other.load_state_dict(json.loads(states[done]))
        assert 3 == other.epoch
        assert expected[done + 1 :] == numbers(other)
        assert 0 == other.account.left


def test_a_checkpoint_counts_once(client: SyncClickstreamClient, batch_id: str) -> None:
    """Only the pass after `load_state_dict` begins at the checkpoint; the one after it begins at the start."""
    data = BatchExamples(client, batch_id)
    examples = iter(data)
    next(examples)
    state = data.state_dict()
    examples.close()
    data.load_state_dict(state)

    assert RELEVANT[1:] == numbers(data)
    assert RELEVANT == numbers(data)


def test_a_checkpoint_counts_until_a_pass_begins(own_client: SyncClickstreamClient) -> None:
    """A pass that cannot begin does not use it up: else the next one would begin at the start, without a word."""
    fill(own_client, range(2, 6))
    batch_id = own_client.release_batch("r").batch.batch_id
    data = BatchExamples(own_client, batch_id)
    next(iter(data))
    data.load_state_dict(data.state_dict())
    own_client.update_batch_status(batch_id, SessionBatchStatus.COLLECTING)
    with pytest.raises(BatchStatusMismatch):
        iter(data)
    own_client.release_batch("again")

    assert [2, 3, 4] == numbers(data)
    assert [1, 2, 3, 4] == numbers(data)


@pytest.mark.parametrize("state", [{}, {"epoch": 0}, {"epoch": 0, "done": "5"}, None, [1]])
def test_what_is_no_checkpoint_is_refused_at_once(client: SyncClickstreamClient, batch_id: str, state: Any) -> None:
    """What has not the form of a checkpoint raises ValueError, and the data set stays as it was."""
    data = BatchExamples(client, batch_id)

    with pytest.raises(ValueError, match="checkpoint"):
        data.load_state_dict(state)
    assert RELEVANT[0] == next(iter(data))["session_number"]


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_id": "other"},
        {"session_counter": SESSIONS + 1},
        {"shuffle": [2, 50]},
        {"shard": [0, 1, 1, 2]},
        {"done": SESSIONS + 1},
        {"done": -1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_checkpoint_of_another_data_set_is_refused(
    client: SyncClickstreamClient, batch_id: str, changed: dict[str, Any]
) -> None:
    """A checkpoint that counts other numbers raises ValueError instead of skipping the wrong sessions."""
    data = BatchExamples(client, batch_id, **SHUFFLED)
    iter(data)
    state = data.state_dict()
    data.load_state_dict({**state, **changed})

    with pytest.raises(ValueError, match="checkpoint"):
        iter(data)


# --- batches that cannot be read, or not wholly -----------------------------------------------------------------------


def test_a_collecting_batch_is_refused(own_client: SyncClickstreamClient) -> None:
    """A batch that still collects raises BatchStatusMismatch, and is read once it is released."""
    fill(own_client, range(1, 4))
    batch_id = own_client.list_batches().batches[0].batch_id
    data = BatchExamples(own_client, batch_id)
    with pytest.raises(BatchStatusMismatch, match="still collecting"):
        iter(data)
    own_client.release_batch("r")

    assert [2, 3] == numbers(data)


@pytest.mark.parametrize("status", [status for status in SessionBatchStatus if status != "COLLECTING"])
def test_every_sealed_batch_is_read(own_client: SyncClickstreamClient, status: SessionBatchStatus) -> None:
    """A batch is read in every status but COLLECTING."""
    fill(own_client, range(1, 4))
    batch_id = own_client.release_batch("r").batch.batch_id
    own_client.update_batch_status(batch_id, status)

    assert [2, 3] == numbers(BatchExamples(own_client, batch_id))


def test_an_unknown_batch_is_refused(client: SyncClickstreamClient) -> None:
    """An unknown batch raises BatchNotFound; none at all raises ValueError."""
    with pytest.raises(BatchNotFound):
        iter(BatchExamples(client, "no-such-batch"))
    with pytest.raises(ValueError, match="must not be empty"):
        BatchExamples(client, "")


@ORDERS
def test_sessions_that_moved_on_are_accounted_for(
    own_client: SyncClickstreamClient, order: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What UpdateSession has moved out of the batch is missing, counted and logged, at its ends and in its middle."""
    fill(own_client, range(2, 100))
    batch_id = own_client.release_batch("r").batch.batch_id
    for number in (2, 50, 51, 99):
        own_client.update_session(session(number).model_copy(update={"search_query": "another"}))
    data = BatchExamples(own_client, batch_id, **order)
    with caplog.at_level(logging.WARNING):
        found = numbers(data)

    assert [number for number in range(1, 99) if number not in {1, 49, 50, 98}] == sorted(found)
    assert (98, 94, 4, 0) == (data.account.numbers, data.account.examples, data.account.moved, data.account.left)
    assert "4 of 98 numbers are no longer in the batch" in caplog.text
    parts = [BatchExamples(own_client, batch_id, shard=Shard(0, 1, worker, 3), **order) for worker in range(3)]
    assert sorted(found) == sorted(number for part in parts for number in numbers(part))


@ORDERS
def test_a_batch_of_which_nothing_is_left_is_empty(own_client: SyncClickstreamClient, order: Any) -> None:
    """A batch whose sessions are all irrelevant or moved on has no examples, and that is no error."""
    fill(own_client, [1, 2])
    batch_id = own_client.release_batch("r").batch.batch_id
    own_client.update_session(session(2).model_copy(update={"search_query": "another"}))

    assert [] == list(BatchExamples(own_client, batch_id, **order))


class Truncating(ClickstreamServiceServicer):
    """A service that ends a batch's stream early as if all were well, which ours must never do."""

    def __init__(self, *sent: int, unreadable: bool = False) -> None:
        self._sent = sent
        self._session = {"sort_by": {"field": "f", "order": 99}} if unreadable else {}

    async def GetBatch(self, request: Any, context: Any) -> pb.GetBatchResponse:  # noqa: N802  # gRPC's name
        released = pb_batch.SESSION_BATCH_STATUS_RELEASED
        return pb.GetBatchResponse(batch={"batch_id": "b", "status": released, "session_counter": 9, **MOMENTS})

    async def GetBatchSessions(  # noqa: N802  # gRPC's name
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.GetBatchSessionsResponse]:
        for number in (number for number in self._sent if number > request.after_number):
            about = {"batch_id": "b", "session_number": number, "registered_at": MOMENT}
            found = {"session": {"session_id": f"s-{number}", "created_at": MOMENT, **self._session}, **about}
            yield pb.GetBatchSessionsResponse(sessions=[found], last_number=number)


MOMENT = {"seconds": 1_800_000_000}
MOMENTS = {"created_at": MOMENT, "updated_at": MOMENT}


@asynccontextmanager
async def truncating(
    *sent: int, unreadable: bool = False, service: Truncating | None = None
) -> AsyncIterator[SyncClickstreamClient]:
    server = grpc.aio.server()
    add_ClickstreamServiceServicer_to_server(service or Truncating(*sent, unreadable=unreadable), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with SyncClickstreamClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.stop(0)


@pytest.mark.parametrize("sent", [(), (1, 2, 3), (1, 2, 3, 3, 9)], ids=["nothing", "cut off", "repeated"])
@ORDERS
async def test_a_stream_that_is_cut_off_is_noticed(sent: tuple[int, ...], order: Any) -> None:
    """A stream that ends before the last number, or repeats one, raises IncompleteEpoch: no pass is silently short."""
    async with truncating(*sent) as client:
        with pytest.raises(IncompleteEpoch):
            await asyncio.to_thread(lambda: list(BatchExamples(client, "b", **order)))


@ORDERS
async def test_a_stream_that_reached_the_end_is_whole(order: Any) -> None:
    """A stream that reaches the last number is whole: of numbers that are missing it is believed that they moved on."""
    async with truncating(1, 2, 9) as client:
        found = await asyncio.to_thread(lambda: numbers(BatchExamples(client, "b", include_irrelevant=True, **order)))

    assert [1, 2, 9] == sorted(found)


class Unending(Truncating):
    """A service whose stream of a batch does not end, and comes to nothing."""

    def __init__(self, *sent: int) -> None:
        super().__init__(*sent)
        self.waits, self.left = asyncio.Event(), asyncio.Event()

    async def GetBatchSessions(  # noqa: N802  # gRPC's name
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.GetBatchSessionsResponse]:
        try:
            async for answer in super().GetBatchSessions(request, context):
                yield answer
            self.waits.set()
            await asyncio.Event().wait()
        finally:  # it may be left before all is sent
            self.left.set()


async def test_a_pass_that_is_left_ends_its_stream() -> None:
    """Whoever takes no more examples lets go of the stream with that, and can still ask for the checkpoint."""
    service = Unending(1, 2, 3)
    async with truncating(service=service) as client:
        data = BatchExamples(client, "b", include_irrelevant=True)

        def first() -> int:
            gc.disable()  # in a trainer it may not come for long
            try:
                for example in data:
                    return example["session_number"]
            finally:
                gc.enable()
            return 0

        assert 1 == await asyncio.to_thread(first)
        await asyncio.wait_for(service.left.wait(), PATIENCE_S)
    assert 1 == data.state_dict()["done"]


@ORDERS
async def test_an_example_that_is_not_made_does_not_count(order: Any) -> None:
    """A checkpoint counts what came, and not what could not be made: going on from it would leave that out."""
    async with truncating(1, 2, 3, 9, unreadable=True) as client:
        data = BatchExamples(client, "b", **order)
        with pytest.raises(InvalidField):
            await asyncio.to_thread(list, data)

    assert 0 == data.account.examples


STOPPED = """
import sys
from clickstream import SyncClickstreamClient
from clickstream.datasets import BatchExamples
list(BatchExamples(SyncClickstreamClient(sys.argv[1]), "b", shuffle=sys.argv[2] == "shuffled"))
"""


@pytest.mark.parametrize("order", ["in order", "shuffled"])
async def test_ctrl_c_ends_a_program_that_waits_for_examples(order: str) -> None:
    """SIGINT ends a program in mid-pass at once, also if the server says nothing."""
    service = Unending(1, 2)
    async with truncating(service=service) as client:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", STOPPED, client.target, order), stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                await service.waits.wait()
                process.send_signal(signal.SIGINT)
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()

    assert (-signal.SIGINT, True) == (process.returncode, errors.decode().rstrip().endswith("KeyboardInterrupt"))


# --- processes ------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_it_is_iterated() -> None:
    """A data set is made, and pickled, without a server."""
    data = BatchExamples(SyncClickstreamClient("127.0.0.1:1"), "b")

    assert 0 == pickle.loads(pickle.dumps(data)).epoch


def test_a_copy_reads_by_itself(client: SyncClickstreamClient, batch_id: str) -> None:
    """A pickled data set, also one in the middle of a pass, becomes one that begins at the start."""
    data = BatchExamples(client, batch_id)
    next(iter(data))

    assert RELEVANT == numbers(pickle.loads(pickle.dumps(data)))


def test_state_before_reading_is_an_error(client: SyncClickstreamClient, batch_id: str) -> None:
    """A checkpoint or an account of nothing raises RuntimeError."""
    with pytest.raises(RuntimeError, match="nothing was read yet"):
        BatchExamples(client, batch_id).state_dict()
