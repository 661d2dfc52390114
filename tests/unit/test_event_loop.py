"""The event loop of the program ends."""

from __future__ import annotations

import asyncio

from clickstream_server import event_loop


def test_a_task_that_missed_that_it_was_cancelled_does_not_hold_up_the_end() -> None:
    """What still runs once the work is done is cancelled again if it goes on."""
    cancels = []

    async def deaf() -> None:
        while len(cancels) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels.append("cancelled")

    async def work() -> str:
        tasks.append(asyncio.create_task(deaf()))
        await asyncio.sleep(0)
        return "done"

    tasks: list[asyncio.Task[None]] = []
    assert "done" == event_loop.run(work())
    assert ["cancelled"] * 2 == cancels
    assert tasks[0].done()
