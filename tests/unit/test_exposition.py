"""Adding up what several processes have counted."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from clickstream_server.observe.exposition import Family, Workers, added_up, snapshot, told, written


def worker(calls: int, in_flight: int, lag: float, *, serving: bool = True) -> list[Family]:
    """What a process tells that has counted this much, as it arrives in another one."""
    registry = CollectorRegistry()
    counter = Counter("clickstream_calls", "Calls.", ["code"], registry=registry)
    counter.labels("OK").inc(calls)
    Gauge("clickstream_in_flight", "Now.", registry=registry).set(in_flight)
    Gauge("clickstream_follower_lag_seconds", "Lag.", registry=registry).set(lag)
    Gauge("process_open_fds", "Files.", registry=registry).set(10 * in_flight)
    Gauge("clickstream_health_serving", "Health.", registry=registry).set(serving)
    time = Histogram("clickstream_time_seconds", "Time.", buckets=(1, 2), registry=registry)
    for n in range(calls):
        time.observe(n + 0.5)
    found: list[Family] = json.loads(json.dumps(snapshot(registry)))
    return found


def values(families: list[Family]) -> dict[Any, float]:
    text, _ = written(families, {})
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_the_sum_of_workers() -> None:
    """Counters, histograms and most gauges add up; of lags and files the largest counts, of health the smallest."""
    found = values(added_up([worker(2, 1, 7), worker(3, 4, 5, serving=False)]))

    assert {
        ("clickstream_calls_total", "OK"): 5,
        ("clickstream_in_flight",): 5,
        ("clickstream_follower_lag_seconds",): 7,
        ("process_open_fds",): 40,
        ("clickstream_health_serving",): 0,
        ("clickstream_time_seconds_bucket", "1.0"): 2,
        ("clickstream_time_seconds_bucket", "2.0"): 4,
        ("clickstream_time_seconds_bucket", "+Inf"): 5,
        ("clickstream_time_seconds_count",): 5,
        ("clickstream_time_seconds_sum",): 6.5,
    } == found


def test_what_a_dead_worker_has_counted_stays() -> None:
    """The counters of a worker that is gone stay in the sums, also after the next one dies; its gauges do not."""
    workers = Workers(lambda: worker(1, 0, 0), lambda: None)
    workers.heard(1, told(worker(2, 1, 7)))
    workers.heard(2, told(worker(3, 4, 5)))
    assert 6 == values(workers.collect())["clickstream_calls_total", "OK"]

    for died in range(1, 4):
        workers.ended(2)
        found = values(workers.collect())
        assert 3 + 3 * died == found["clickstream_calls_total", "OK"]
        assert 1 == found[("clickstream_in_flight",)]
        workers.heard(2, told(worker(1, 4, 5)))
        workers.heard(2, told(worker(3, 4, 5)))  # all so far, not what came since

    assert 15 == values(workers.collect())["clickstream_calls_total", "OK"]
    assert 15 == values(workers.collect())[("clickstream_time_seconds_count",)]


def test_a_worker_that_has_told_nothing_is_nothing() -> None:
    """One that dies before it has told anything changes nothing, however often."""
    workers = Workers(lambda: worker(1, 0, 0), lambda: None)
    for _ in range(2):
        workers.ended(1)

    assert values(worker(1, 0, 0)) == values(workers.collect())


def test_one_process_is_told_as_it_is() -> None:
    """What is told of one process is what its registry tells, but for the times at which series were made."""
    assert values(worker(2, 1, 7)) == values(added_up([worker(2, 1, 7)]))
    assert not any(name[0].endswith("_created") for name in values(worker(1, 1, 1)))
