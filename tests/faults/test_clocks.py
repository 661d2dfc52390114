"""Clients and servers whose clock is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faults.checker import breaches, read_stored
from faults.workload import Workload

from clickstream import ClickstreamClient, InvalidField, Session
from harness import PATIENCE_S, ServerProcess, ended, served

HOUR_S = 3600
YEAR_S = 365 * 24 * HOUR_S
# Every program asks libc for the time, which then says something else. What waits measures with other clocks.
WRONG_CLOCK = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long wrong_by(void) {
    const char *since = getenv("WRONG_SINCE");
    int error = errno;
    int right = since && access(since, F_OK);
    errno = error;
    return right ? 0 : atol(getenv("WRONG_BY_S"));
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += wrong_by();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""
PRODUCER = """
import asyncio, json, sys
from datetime import datetime, timezone
from clickstream import ClickstreamClient, InvalidField, Session, SessionEvent

async def main(target):
    now = datetime.now(timezone.utc)
    event = SessionEvent(session_id="of the server", event_id="pushed", object_id="o", created_at=now)
    async with ClickstreamClient(target, deadline_s=20) as client:
        first = await client.register_session(Session(session_id="of the server"))
        try:
            stamped = (await client.register_session(Session(session_id="of the client", created_at=now))).outcome.name
        except InvalidField as error:
            stamped = error.reason
        try:
            pushed = (await client.push_events([event])).inserted
        except InvalidField as error:
            pushed = error.reason
        async with client.event_stream() as stream:
            await stream.send(event.model_copy(update={"event_id": "streamed"}))
        pages = client.get_batch_pages(first.session.batch_id)
        seen = [found.session_number async for page in pages for found in page.sessions]
    told = {"now": now.timestamp(), "stamped": stamped, "pushed": pushed, "rejected": stream.totals.rejected}
    print(json.dumps(told | {"seen": seen}))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
async def wrong_clock(tmp_path: Path) -> Path:
    """A library that makes the clock of a program wrong; skipped without a C compiler.

    `WRONG_BY_S` in its environment says by how much; `WRONG_SINCE`, where it is set, only once there is that file.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler, `cc`, to give a process a wrong clock")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(WRONG_CLOCK)
    made = await asyncio.create_subprocess_exec(compiler, "-shared", "-fPIC", "-o", library, source)
    assert 0 == await made.wait()
    return library


async def produced(client: ClickstreamClient, library: Path, wrong_by_s: int) -> dict[str, Any]:
    """What a producer with that clock told."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PRODUCER, client.target),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"LD_PRELOAD": str(library), "WRONG_BY_S": str(wrong_by_s)},
    )
    code, output, _ = await ended(process)
    assert 0 == code
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.parametrize(
    ("wrong_by_s", "told"),
    [
        (-YEAR_S, {"stamped": "INSERTED", "pushed": 1, "rejected": 0, "seen": [1, 2]}),
        (YEAR_S, {"stamped": "INVALID_FIELD", "pushed": "INVALID_FIELD", "rejected": 1, "seen": [1]}),
    ],
)
async def test_a_clock_that_is_wrong_by_a_year(
    mongodb_uri: str, database: str, wrong_clock: Path, wrong_by_s: int, told: dict[str, Any]
) -> None:
    """Calls, streams and deadlines work with any clock; what says that it comes from the future is refused by name."""
    async with served(mongodb_uri, database) as client:
        found = await produced(client, wrong_clock, wrong_by_s)
        kept = await client.get_session("of the server")

    now = datetime.now(UTC)
    assert abs(found.pop("now") - now.timestamp() - wrong_by_s) < PATIENCE_S * 2
    assert told == found
    assert kept is not None
    assert kept.session.created_at is not None
    assert timedelta() <= now - kept.session.created_at < timedelta(seconds=PATIENCE_S * 2)
    assert 2 - 2 * (wrong_by_s > 0) == kept.event_count


async def test_a_servers_clock_that_jumps_back(
    mongodb_uri: str, database: str, wrong_clock: Path, tmp_path: Path
) -> None:
    """While the clock of one of two servers jumps back by an hour under load, no promise is broken.

    After that it refuses by name what is stamped with the right time, and takes what is not stamped.
    """
    jumped = tmp_path / "jumped"
    clock = {"LD_PRELOAD": str(wrong_clock), "WRONG_BY_S": str(-HOUR_S), "WRONG_SINCE": str(jumped)}
    settings = {"mongodb_uri": mongodb_uri, "mongodb_database": database}
    jumping, right = await asyncio.gather(
        ServerProcess.start(environment=clock, **settings), ServerProcess.start(**settings)
    )
    async with ClickstreamClient(jumping.address) as first, ClickstreamClient(right.address) as second:
        work = Workload([first, second])

        async def jump_back() -> None:
            await work.until_acknowledged(100)
            jumped.touch()
            await work.until_acknowledged(200)
            await work.release("after the jump", first, second)

        history = await work.run(writers=12, sessions_each=30, disturb=jump_back)
        stored = await read_stored(mongodb_uri, database)
        with pytest.raises(InvalidField, match="created_at: must not be more than 300 seconds in the future"):
            await first.register_session(Session(session_id="stamped", created_at=datetime.now(UTC)))
        unstamped = (await first.register_session(Session(session_id="unstamped"))).session
    ended_with = await jumping.stop(), await right.stop()

    assert [] == breaches(history, stored)
    assert {"after the jump", "the end"} == {release.release_id for release in history.releases}
    assert abs(datetime.now(UTC) - unstamped.registered_at - timedelta(seconds=HOUR_S)) < timedelta(minutes=5)
    assert (0, 0) == ended_with
    assert "Traceback" not in jumping.errors
