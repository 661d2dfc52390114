"""deploy/: the dashboard and the alerts against what a server tells and what the runbook says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from clickstream.v1 import clickstream_service_pb2, transfer_service_pb2
from clickstream_server.config import Settings
from clickstream_server.observe.observing import observing

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
FROM_PROMETHEUS = {"job", "instance"}


def known() -> dict[str, set[str]]:
    """Every series that docs/metrics.md has, which a test compares with a server, and its labels."""
    return {
        name + suffix: set(re.findall(r"`(\w+)`", labels))
        | FROM_PROMETHEUS
        | ({"le"} if suffix == "_bucket" else set())
        for name, kind, labels in DOCUMENTED.findall((ROOT / "docs" / "metrics.md").read_text())
        for suffix in SUFFIXES[kind]
    } | {"up": FROM_PROMETHEUS}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "clickstream.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """All that Prometheus is asked, by where it stands."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for rule in rules():
        yield rule["alert"], rule["expr"]


def selected(expression: str) -> list[tuple[str, set[str]]]:
    """The series that an expression names, and the labels by which it chooses among them."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert found, expression
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_asks_for_what_there_is(where: str, expression: str) -> None:
    """Each expression is PromQL, and names only series and labels that a server has."""
    series = known()
    for name, labels in selected(expression):
        assert name in series, where
        assert labels <= series[name], where
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        names = {label.strip() for label in grouped.split(",")}
        assert names <= set().union(*(series[name] for name, _ in selected(expression))), where


METHODS = {
    f"{service.full_name}/{method.name}": method
    for described in (clickstream_service_pb2.DESCRIPTOR, transfer_service_pb2.DESCRIPTOR)
    for service in described.services_by_name.values()
    for method in service.methods
}


def chooses(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a selector takes a series with these labels; `$job` and `$instance` are all."""

    def fits(matcher: Any) -> bool:
        value, asked = labels.get(matcher.name, ""), matcher.value
        if matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual):
            return (value == asked) is (matcher.op == promql_parser.MatchOp.Equal)
        found = asked.startswith("$") or re.fullmatch(asked, value) is not None
        return found is (matcher.op == promql_parser.MatchOp.Re)

    return all(fits(matcher) for matcher in selector.matchers.matchers)


def share_of(expression: str, labels: dict[str, str]) -> tuple[bool, bool]:
    """Whether a series with these labels counts above and below the line of `sum(… unless …) / sum(…)`."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    counted, left_out, of_all = found
    return chooses(counted, labels) and not chooses(left_out, labels), chooses(of_all, labels)


@pytest.mark.parametrize("where", ["Failed by us", "ClickstreamCallsFail"])
def test_what_counts_as_failed(where: str) -> None:
    """A call whose caller waited in vain failed, a stream that ended at its deadline did not; probes are no calls."""
    expression = dict(expressions())[where]

    for name, method in METHODS.items():
        late = share_of(expression, {"method": name, "code": "DEADLINE_EXCEEDED", "reason": ""})
        away = share_of(expression, {"method": name, "code": "UNAVAILABLE", "reason": "STORAGE_UNAVAILABLE"})
        stops = share_of(expression, {"method": name, "code": "UNAVAILABLE", "reason": "SHUTTING_DOWN"})
        assert ((not method.server_streaming, True), (True, True), (False, True)) == (late, away, stops), name
        ours = share_of(expression, {"method": name, "code": "INTERNAL", "reason": "INTERNAL"})
        assert (True, True) == ours, name
    probe = {"method": "grpc.health.v1.Health/Check", "code": "UNKNOWN", "reason": ""}
    assert (False, False) == share_of(expression, probe)


async def test_an_alert_on_a_first_fault_has_something_to_count_from() -> None:
    """What is to fire at any increase is told as 0 before, for each method: a series that begins at 1 never grew."""
    async with observing(Settings(metrics_listen="127.0.0.1:0")) as observed:
        told = {
            sample: [dict(labels) for name, labels, value in family["samples"] if name == sample and value == 0]
            for family in observed.counted()
            for sample, _, _ in family["samples"]
        }
    on_any = [rule["expr"] for rule in rules() if re.search(r"\b(increase|rate)\(.*> 0$", rule["expr"])]

    assert {"clickstream_rpc_requests_total", "clickstream_group_commit_failures_total"} == {
        name for expression in on_any for name, _ in selected(expression)
    }
    for expression in on_any:
        promql_parser.walk(promql_parser.parse(expression), partial(_must_be_told, told))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_what_is_over_raises_no_alert(rule: dict[str, Any]) -> None:
    """What failed for a minute, and is over, is out of an alert's sight before the alert fires."""
    waits = promql_parser.parse_duration(rule["for"])
    looks_back = [promql_parser.parse_duration(found) for found in re.findall(r"\brate\([^[]*\[(\w+)\]", rule["expr"])]

    assert rule["expr"].count("rate(") == len(looks_back)
    assert [] == [found for found in looks_back if found + timedelta(minutes=1) > waits]


def test_an_import_raises_no_alert() -> None:
    """No alert asks how many sessions wait: imports keep most of their room filled, calls can fill little of it."""
    waiting = {"clickstream_group_commit_queue_sessions", "clickstream_group_commit_queue_bytes"}

    assert not [rule["alert"] for rule in rules() if waiting & {name for name, _ in selected(rule["expr"])}]


def test_an_expired_certificate_wakes_people() -> None:
    """There is time to renew one for two weeks; once it has expired nobody calls, so that no other alert tells."""
    told = [rule for rule in rules() if "tls_certificate_expires" in rule["expr"]]

    assert {"ClickstreamCertificateExpired": "critical", "ClickstreamCertificateExpires": "warning"} == {
        rule["alert"]: rule["labels"]["severity"] for rule in told
    }


def test_workers_that_wait_do_not_die() -> None:
    """The alert on workers that die asks how often they did, not how many serve: none does without a database."""
    expression = dict(expressions())["ClickstreamWorkersDie"]

    assert [("clickstream_worker_restarts_total", set())] == selected(expression)


def _must_be_told(told: dict[str, list[dict[str, str]]], node: Any) -> None:
    if not isinstance(node, promql_parser.VectorSelector):
        return
    found = [labels for labels in told[node.name] if chooses(node, labels)]
    assert found, node.name
    assert {labels.get("method") for labels in found} in (set(METHODS), {None})


def test_every_metric_of_the_service_is_shown() -> None:
    """The dashboard shows each metric that begins with our name, but for those that say what others show."""
    shown = {
        name
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
        for name, _ in selected(target["expr"].replace("$__rate_interval", "5m"))
    }
    left_out = {"clickstream_draining", "clickstream_group_commit_queue_bytes"}
    documented = DOCUMENTED.findall((ROOT / "docs" / "metrics.md").read_text())
    missing = [
        name
        for name, kind, _ in documented
        if name.startswith("clickstream_") and not {name + suffix for suffix in SUFFIXES[kind]} & shown
    ]

    assert sorted(left_out) == sorted(missing)


def test_the_dashboards_panels_lie_side_by_side() -> None:
    """No two panels have the same id or lie on each other."""
    panels = dashboard()["panels"]
    taken = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(panels) == len({panel["id"] for panel in panels})
    assert len(taken) == len(set(taken))
    assert all(x < 24 for x, _ in taken)


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    """An alert waits before it fires, has a severity, says what to do, and leads to a section that is there."""
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert promql_parser.parse_duration(rule["for"]).total_seconds() >= 60
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert ": " in rule["annotations"]["summary"] or "; " in rule["annotations"]["summary"]
    assert anchor in anchors(page)


def test_the_runbook_has_no_section_that_no_alert_leads_to() -> None:
    """Every section of docs/runbook.md belongs to an alert."""
    sections = re.findall(r"^## (.*)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    reached = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in rules()}

    assert len(sections) == len(reached)


def test_prometheus_is_told_where_the_rules_are() -> None:
    """The configuration to copy names the file of the rules, and the job that they go by."""
    found = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())

    assert ["alerts.yaml"] == found["rule_files"]
    assert ["clickstream"] == [job["job_name"] for job in found["scrape_configs"]]
