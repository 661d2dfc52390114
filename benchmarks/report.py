"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.behind import CaughtUp
from benchmarks.contest import CLICKSTREAM, DIRECT, Result
from benchmarks.follow import Latency
from benchmarks.memory import Growth
from benchmarks.overload import Overload
from benchmarks.workers import Rate


def show_results(results: Sequence[Result], console: Console) -> None:
    """Rates and ratios, then where the processor's time went."""
    table = Table(title="Median (lowest to highest round)", title_justify="left")
    for heading in ("work", "clickstream, a second", "direct, a second", "ratio"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for found in results:
        rates = [_spread(found.rates(name), ",.0f") for name in (CLICKSTREAM, DIRECT)]
        table.add_row(f"{found.name}, {found.items:,} {found.unit}", *rates, _spread(found.ratios, ".2f"))
    console.print(table)

    table = Table(title="Processor's time for one item, median in microseconds", title_justify="left")
    processes = list(results[0].cpu_micros(CLICKSTREAM))
    for heading in ("work", "contestant", *processes):
        table.add_column(heading, justify="right" if heading in processes else "left")
    for found in results:
        for name in found.runs:
            table.add_row(found.name, name, *(f"{micros:,.1f}" for micros in found.cpu_micros(name).values()))
    console.print(table)


def show_growth(grown: Sequence[Growth], console: Console) -> None:
    """Memory by process and work."""
    table = Table(title=f"Memory over {grown[0].sessions:,} sessions, in MiB", title_justify="left")
    for heading in ("work", "process", "after a tenth", "most after that", "at the end", "growth"):
        table.add_column(heading, justify="left" if heading in {"work", "process"} else "right")
    for found in grown:
        figures = (found.after_a_tenth_mib, found.most_mib, found.at_the_end_mib, found.growth_mib)
        table.add_row(found.work, found.process, *(f"{figure:,.1f}" for figure in figures))
    console.print(table)


def show_follow(followed: Sequence[Latency], console: Console) -> None:
    """How long readers wait."""
    first = followed[0]
    title = f"From commit to {first.readers} following readers, {first.sessions:,} sessions, in milliseconds"
    table = Table(title=title, title_justify="left")
    for heading in ("round", "median", "99 of 100", "most", "server's processor a session"):
        table.add_column(heading, justify="right")
    for number, found in enumerate(followed, start=1):
        figures = (found.median_ms, found.p99_ms, found.most_ms, found.server_cpu_ms)
        table.add_row(str(number), *(f"{figure:,.1f}" for figure in figures))
    console.print(table)


def show_rates(rates: Sequence[Rate], console: Console) -> None:
    """What more workers bring."""
    table = Table(title="Median (lowest to highest round)", title_justify="left")
    headings = ("work", "workers", "a second", "servers' processor for one, µs", "commits", "conflicts")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for work, workers in dict.fromkeys((rate.work, rate.workers) for rate in rates):
        found = [rate for rate in rates if (rate.work, rate.workers) == (work, workers)]
        cpu_micros = [rate.server_cpu_s * 1e6 / rate.items for rate in found]
        figures = [[rate.per_s for rate in found], cpu_micros, [rate.commits for rate in found]]
        figures.append([rate.conflicts for rate in found])
        table.add_row(work, str(workers), *(_spread(column, ",.0f") for column in figures))
    console.print(table)


def show_caught_up(caught_up: Sequence[CaughtUp], console: Console) -> None:
    """What a follower that fell behind costs."""
    for found in caught_up:
        rate = found.sessions / found.catching_up_s
        console.print(
            f"{found.sessions:,} sessions imported in {found.import_s:,.0f} s; "
            f"the follower caught up in {found.catching_up_s:,.0f} s ({rate:,.0f} a second)"
        )
        show_growth(found.memory, console)


def show_overload(found: Sequence[Overload], console: Console) -> None:
    """What became of the calls at twice of what the server carries."""
    for one in found:
        table = Table(title=f"Overload; the server carries {one.capacity:,.0f} calls a second", title_justify="left")
        for heading in ("calls", "a second", "median, ms", "99 of 100, ms"):
            table.add_column(heading, justify="left" if heading == "calls" else "right")
        rows = {
            "unloaded": (one.unloaded_rate, one.unloaded_median_ms, one.unloaded_p99_ms),
            "accepted": (one.accepted, one.accepted_median_ms, one.accepted_p99_ms),
            "refused": (one.refused, one.refused_median_ms, one.refused_p99_ms),
        }
        for name, figures in rows.items():
            table.add_row(name, *(f"{figure:,.1f}" for figure in figures))
        console.print(table)
        console.print(
            f"accepted against unloaded: median {one.accepted_median_ms / one.unloaded_median_ms:.2f}, "
            f"99 of 100 {one.accepted_p99_ms / one.unloaded_p99_ms:.2f}; health at most {one.health_most_ms:.0f} ms; "
            f"the server's memory {one.rss_before_mib:.0f} MiB before, {one.rss_most_mib:.0f} at most; "
            f"other ends: {one.other or 'none'}"
        )


def _spread(figures: Sequence[float], form: str) -> str:
    return f"{median(figures):{form}} ({min(figures):{form}} to {max(figures):{form}})"
