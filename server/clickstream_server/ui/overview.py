"""What stands at the top of the page: the database's state, the newest batches, the rate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic

from clickstream.dao import ClickstreamDao
from clickstream.errors import ClickstreamError
from clickstream.models import BatchList, SessionBatch, SessionBatchStatus
from clickstream_server.deadlines import deadline
from clickstream_server.ui.rate import RateMeter, Sample

BATCHES_SHOWN = 20
_LOOK_EVERY_S = 0.9
"""A little less than the second after which the page asks again, so that each of its questions is a look."""
_LOOK_S_MAX = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found. `batches` None: the database did not answer."""

    at: float
    answers: bool
    since: datetime
    took_s: float
    batches: BatchList | None = None
    collecting: SessionBatch | None = None
    per_s: float | None = None
    samples: list[Sample] = field(default_factory=list)


class Overview:
    """Looks at the database when somebody asks, and once a second at most, however many ask."""

    def __init__(self, dao: ClickstreamDao, ping: Callable[[float], Awaitable[None]]) -> None:
        self._dao = dao
        self._ping = ping
        self._meter = RateMeter()
        self._one_at_a_time = asyncio.Lock()
        self._last: Look | None = None

    async def look(self) -> Look:
        async with self._one_at_a_time:
            if self._last is None or monotonic() - self._last.at >= _LOOK_EVERY_S:
                found = await self._look()
                if self._last is not None and self._last.answers == found.answers:
                    found = replace(found, since=self._last.since)
                self._last = found
            return self._last

    async def _look(self) -> Look:
        began = monotonic()
        try:
            with deadline(_LOOK_S_MAX):
                took_s, collecting, newest = await asyncio.gather(
                    self._round_trip_s(),
                    self._dao.list_batches(statuses=[SessionBatchStatus.COLLECTING], page_size=1),
                    self._dao.list_batches(page_size=BATCHES_SHOWN),
                )
        except Exception as error:
            if not isinstance(error, ClickstreamError):
                _log.exception("the page's look at the database failed")
            now = monotonic()
            return Look(at=now, answers=False, since=datetime.now(UTC), took_s=now - began)
        now = monotonic()
        self._meter.observe(now, [*collecting.batches, *newest.batches])
        return Look(
            at=now,
            answers=True,
            since=datetime.now(UTC),
            took_s=took_s,
            batches=newest,
            collecting=next(iter(collecting.batches), None),
            per_s=self._meter.per_s(),
            samples=self._meter.samples(),
        )

    async def _round_trip_s(self) -> float:
        began = monotonic()
        await self._ping(_LOOK_S_MAX)
        return monotonic() - began
