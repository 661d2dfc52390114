"""What `make test-faults` prints at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faults.checker import Stored, account_of
from faults.mixed import KINDS, MixedLoad
from rich.console import Console
from rich.table import Table


def outcome_of(name: str, load: MixedLoad, stored: Stored, elections: int) -> dict[str, Any]:
    """A line of the report. Plain values, as it may come from another process of pytest."""
    account = account_of(load.history, stored)
    waits_s = load.longest_wait_s(min(start for start, _ in load.history.outages))
    return {
        "fault": name,
        "acked": account.acknowledged,
        "found": account.found,
        "lost": account.lost,
        "doubled": account.doubled,
        "retried": load.retries,
        "given up": account.unanswered,
        "of these stored": account.unanswered_found,
        "elections": elections,
        **{kind: f"{waits_s[kind]:.1f}" for kind in KINDS},
    }


def show(outcomes: Sequence[dict[str, Any]]) -> None:
    """The report as a table."""
    table = Table(
        title="Sessions and events; then the longest time without an answer, in seconds", title_justify="left"
    )
    for heading in outcomes[0]:
        table.add_column(heading, justify="left" if heading == "fault" else "right", no_wrap=heading == "fault")
    for outcome in outcomes:
        table.add_row(*map(str, outcome.values()))
    Console(width=160).print(table)
