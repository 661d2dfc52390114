"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.behind import CaughtUp
from benchmarks.contest import Result
from benchmarks.firing import HELD_BACK, OK, REFUSED
from benchmarks.follow import Latency
from benchmarks.marks import Verdict
from benchmarks.memory import Growth
from benchmarks.overload import Overload, Phase
from benchmarks.tables import Table, form_of, spread
from benchmarks.workers import Rate

_PROCESSES = ("client", "server", "mongod")


def marks_table(verdicts: Iterable[Verdict]) -> Table:
    """What was to be reached, and what was; of several drivers the first one counts."""
    verdicts = list(verdicts)
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.figures))
    rows = [
        [
            verdict.work,
            verdict.mark,
            "yes" if verdict.reached else "no",
            *(spread(found, form_of(verdict.bound)) if (found := verdict.figures.get(name)) else "" for name in names),
        ]
        for verdict in verdicts
    ]
    return Table("Marks: median (lowest to highest round)", ["work", "mark", "reached", *names], rows, words=3)


def contest_tables(results: Sequence[Result]) -> list[Table]:
    """How fast each contestant was, and where the processor's time went."""
    rates, times, refused = [], [], []
    for found in results:
        if found.refused:
            refused.append(f"{found.name}: {found.refused:,} calls were refused for the server's load, and made again.")
        for name in found.runs:
            unit = "ms a call" if found.in_ms else f"{found.unit} a second"
            figures = found.figures(name)
            ratio = "" if found.in_ms or name == found.ours[0] else spread(found.ratios(found.ours[0], name), ".2f")
            rates.append([f"{found.name}, {found.items:,}", name, spread(figures, form_of(figures[0])), unit, ratio])
            micros = found.cpu_micros(name)
            used = (f"{micros[process]:,.1f}" if process in micros else "" for process in _PROCESSES)
            pages = (f"{count:,.2f}" for count in found.pages(name).values())
            times.append([found.name, name, *used, *pages])
    return [
        Table(
            "Median (lowest to highest round)",
            ["work", "who", "figure", "unit", "the first to this"],
            rates,
            words=2,
            note="\n".join(refused),
        ),
        Table(
            "Processor's time for one item in µs, and pages that mongod read and wrote: medians",
            ["work", "who", *_PROCESSES, "read", "written"],
            times,
            words=2,
        ),
    ]


def contestants_table(contests: Iterable[Mapping[str, Any]]) -> Table:
    """Of several contests, from their JSON: how fast each contestant was, and what it took of the processor."""
    rows = []
    for found in contests:
        for name, figure in found["medians"].items():
            unit = found["medians_are"].replace("milliseconds", "ms")
            micros = found["cpu_micros_per_item"][name]
            used = [f"{micros[process]:,.0f}" if process in micros else "" for process in _PROCESSES]
            rows.append([found["name"], name, f"{figure:{form_of(figure)}}", unit, *used])
    headings = ["work", "who", "median", "", "client, µs", "server, µs", "mongod, µs"]
    return Table("Rates, and the processor's time for one by process", headings, rows, words=2)


def growth_tables(grown: Sequence[Growth]) -> list[Table]:
    """Memory by process and work."""
    rows = []
    for found in grown:
        figures = (found.after_a_tenth_mib, found.most_mib, found.at_the_end_mib, found.growth_mib)
        rows.append([found.work, found.process, *(f"{figure:,.1f}" for figure in figures)])
    headings = ["work", "process", "after a tenth", "most after that", "at the end", "growth"]
    return [Table(f"Memory over {grown[0].sessions:,} sessions, in MiB", headings, rows, words=2)]


def follow_tables(followed: Sequence[Latency]) -> list[Table]:
    """How long readers wait."""
    first = followed[0]
    rows = []
    for number, found in enumerate(followed, start=1):
        figures = (found.median_ms, found.p99_ms, found.most_ms, found.server_cpu_ms)
        rows.append([str(number), *(f"{figure:,.1f}" for figure in figures)])
    title = f"From commit to {first.readers} following readers, {first.sessions:,} sessions, in milliseconds"
    return [Table(title, ["round", "median", "99 of 100", "most", "server's processor a session"], rows)]


def rate_tables(rates: Sequence[Rate]) -> list[Table]:
    """What more workers bring."""
    rows = []
    for work, workers in dict.fromkeys((rate.work, rate.workers) for rate in rates):
        found = [rate for rate in rates if (rate.work, rate.workers) == (work, workers)]
        cpu_micros = [rate.server_cpu_s * 1e6 / rate.items for rate in found]
        figures = [[rate.per_s for rate in found], cpu_micros, [rate.commits for rate in found]]
        figures.append([rate.conflicts for rate in found])
        rows.append([work, str(workers), *(spread(column, ",.0f") for column in figures)])
    headings = ["work", "workers", "a second", "servers' processor for one, µs", "commits", "conflicts"]
    return [Table("Median (lowest to highest round)", headings, rows)]


def caught_up_tables(caught_up: Sequence[CaughtUp]) -> list[Table]:
    """What a follower that fell behind costs."""
    tables = []
    for found in caught_up:
        rate = found.sessions / found.catching_up_s
        row = [f"{found.sessions:,}", *(f"{seconds:,.0f}" for seconds in (found.import_s, found.catching_up_s, rate))]
        headings = ["sessions", "imported in, s", "caught up in, s", "a second"]
        tables += [Table("A follower that fell behind", headings, [row], words=0), *growth_tables(found.memory)]
    return tables


def overload_tables(found: Sequence[Overload]) -> list[Table]:
    """What became of the calls at twice of what the server carries."""
    return [_load_table(one, name) for one in found for name in one.loads]


def _load_table(one: Overload, name: str) -> Table:
    load = one.loads[name]
    rows = [["unloaded", *_calls(one.unloaded, OK)]]
    rows += [
        [told, *_calls(load.phase, status)]
        for told, status in (("accepted", OK), ("refused", REFUSED), ("not sent", HELD_BACK))
        if load.phase.rate(status)
    ]
    slower = load.phase.median_ms(OK) / one.unloaded.median_ms(OK)
    slowest = load.phase.p99_ms(OK) / one.unloaded.p99_ms(OK)
    late_ms = load.phase.late_s * 1000
    return Table(
        f"Overload, {name}; the server carries {one.capacity:,.0f} calls a second",
        ["calls", "a second", "median, ms", "99 of 100, ms"],
        rows,
        note=f"Accepted against unloaded: median {slower:.2f}, 99 of 100 {slowest:.2f}; "
        f"health at most {load.health_most_ms:.0f} ms; "
        f"the server's memory {load.rss_before_mib:.0f} MiB before, {load.rss_most_mib:.0f} at most; "
        f"other ends: {load.other or 'none'}; calls began {late_ms:.0f} ms late at most, but for one in a hundred; "
        f"cores used: {', '.join(f'{who} {share:.2f}' for who, share in load.cores.items())}",
    )


def _calls(phase: Phase, status: str) -> list[str]:
    figures = ((phase.rate(status), ",.0f"), (phase.median_ms(status), ",.1f"), (phase.p99_ms(status), ",.1f"))
    return [format(*figure) for figure in figures]
