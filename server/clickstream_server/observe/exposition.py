"""What the processes of a server have counted, as one: taken as plain data, added up, and written for Prometheus.

With workers, each sends what it has counted to the process that answers Prometheus. What a worker that died had
counted stays in the sums, so that no counter goes back; what it had in its hands is gone with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # who counts nothing need not load it
    from prometheus_client.metrics_core import Metric

Family = dict[str, Any]
"""A metric as plain data: its `name`, `type`, `text`, and `samples` of (name, labels, value)."""

_LARGEST_OF_ALL = frozenset(
    {
        *("clickstream_follower_lag_sessions", "clickstream_follower_lag_seconds", "clickstream_build_info"),
        *("clickstream_draining", "process_open_fds", "process_max_fds"),
    }
)
_SMALLEST_OF_ALL = frozenset(
    {
        *("clickstream_health_serving", "clickstream_tls_certificate_expires_timestamp_seconds"),
        "process_start_time_seconds",
    }
)
"""All other gauges of several processes are added up."""


class Collected(Protocol):
    """What can tell what was counted: a registry of prometheus_client."""

    def collect(self) -> Iterable[Metric]: ...


def snapshot(registry: Collected) -> list[Family]:
    """All that was counted so far, as plain data."""
    return [
        {
            "name": metric.name,
            "type": metric.type,
            "text": metric.documentation,
            # When a series was made says nothing that the start of the process does not say.
            "samples": [
                (sample.name, tuple(sorted(sample.labels.items())), sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ],
        }
        for metric in registry.collect()
    ]


def added_up(snapshots: Iterable[list[Family]]) -> list[Family]:
    """The snapshots of several processes as that of one."""
    families: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Any], float]] = {}
    for family in (family for found in snapshots for family in found):
        name = family["name"]
        families.setdefault(name, family)
        values = sums.setdefault(name, {})
        for sample, labels, value in family["samples"]:
            key = (sample, tuple(map(tuple, labels)))
            values[key] = _both(name, values[key], value) if key in values else value
    return [
        {**family, "samples": [(sample, labels, value) for (sample, labels), value in sums[name].items()]}
        for name, family in families.items()
    ]


def _both(name: str, one: float, other: float) -> float:
    if name in _LARGEST_OF_ALL:
        return max(one, other)
    return min(one, other) if name in _SMALLEST_OF_ALL else one + other


class Workers:
    """What this process and its workers have counted: each tells it now and then, as `told`."""

    def __init__(self, own: Callable[[], list[Family]], started_again: Callable[[], None]) -> None:
        self._own = own
        self.started_again = started_again
        self._last: dict[int, bytes] = {}
        self._of_the_dead: list[Family] = []

    def heard(self, worker: int, line: bytes) -> None:
        """All that this worker has counted so far."""
        self._last[worker] = line

    def ended(self, worker: int) -> None:
        """The worker's process has ended; what it had counted stays. Another may take its number."""
        if line := self._last.pop(worker, None):
            self._of_the_dead = added_up([self._of_the_dead, _counted(json.loads(line))])

    def collect(self) -> list[Family]:
        """The sums."""
        return added_up([self._own(), self._of_the_dead, *map(json.loads, self._last.values())])


def told(families: list[Family]) -> bytes:
    """The families as one line."""
    return json.dumps(families, separators=(",", ":")).encode() + b"\n"


def _counted(found: list[Family]) -> list[Family]:
    """What a process has counted, without what it had in its hands."""
    return [family for family in found if family["type"] in {"counter", "histogram"}]


class _Told:
    """Families as a registry, for the encoder."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import Metric
        from prometheus_client.samples import Sample

        for family in self._families:
            metric = Metric(family["name"], family["text"], family["type"])
            metric.samples = [Sample(name, dict(labels), value) for name, labels, value in family["samples"]]
            yield metric


def written(families: list[Family], headers: Mapping[str, str]) -> tuple[bytes, str]:
    """The families in the form that the asker's headers ask for, and the name of that form."""
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(headers.get("Accept", ""))
    return encode(_Told(families)), content_type
