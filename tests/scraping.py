"""Reads a server's metrics as Prometheus does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from clickstream import ClickstreamClient
from harness import eventually, running


async def scrape(url: str) -> list[Metric]:
    """What the server tells."""
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert 200 == answer.status
        return list(text_string_to_metric_families(await answer.text()))


@dataclass
class Watched:
    """A server with metrics, and a client of it."""

    client: ClickstreamClient
    metrics: str

    async def sum(self, sample: str, **labels: str) -> float:
        """The sum of all samples of this name with these labels, at the least."""
        return sum(
            found.value
            for metric in await scrape(self.metrics)
            for found in metric.samples
            if found.name == sample and labels.items() <= found.labels.items()
        )

    async def until(self, expected: float, sample: str, **labels: str) -> None:
        """Wait until the sum is this."""

        async def is_so() -> bool:
            return expected == await self.sum(sample, **labels)

        await eventually(is_so, f"{sample} {labels} is {expected}; it is {await self.sum(sample, **labels)}")


@asynccontextmanager
async def watched(mongodb_uri: str, database: str, **settings: Any) -> AsyncIterator[Watched]:
    """As `harness.served`, with metrics."""
    chosen = {"metrics_listen": "127.0.0.1:0", **settings}
    async with running(mongodb_uri, database, **chosen) as found, ClickstreamClient(found.address) as client:
        yield Watched(client, found.metrics)
