"""docs/metrics.md against what a server tells."""

from __future__ import annotations

import re
from pathlib import Path

from clickstream import Session
from scraping import scrape, watched

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


async def test_every_metric_is_documented_as_it_is(mongodb_uri: str, database: str) -> None:
    """The tables of docs/metrics.md have every metric of a server, with its type, labels and text, and no other."""
    async with watched(mongodb_uri, database) as server:
        await server.client.register_session(Session(session_id="s"))
        told = await scrape(server.metrics)
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, labels, text in ROW.findall(PAGE.read_text())
    }

    names = {metric.name + ("_total" if metric.type == "counter" else ""): metric for metric in told}
    assert sorted(names) == sorted(documented)
    for name, metric in names.items():
        assert (name, metric.type, metric.documentation) == (name, documented[name][0], documented[name][2])
        for sample in metric.samples:
            assert (name, sample.labels.keys() - {"le"}) == (name, documented[name][1])
