"""Tables, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Table:
    """`words`: so many columns, from the left, hold words; the others hold figures. `note` stands below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    note: str = ""

    def show(self, console: Console) -> None:
        shown = RichTable(title=self.title, title_justify="left")
        for place, heading in enumerate(self.headings):
            shown.add_column(heading, justify="left" if place < self.words else "right")
        for row in self.rows:
            shown.add_row(*row)
        console.print(shown)
        if self.note:
            console.print(self.note)

    def markdown(self) -> str:
        lines = [self.headings, ["---"] * len(self.headings), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(filter(None, [f"**{self.title}**", table, self.note])) + "\n"


def spread(figures: Sequence[float], form: str) -> str:
    return f"{median(figures):{form}} ({min(figures):{form}} to {max(figures):{form}})"


def form_of(figure: float) -> str:
    """So that some three digits are seen."""
    return ",.0f" if abs(figure) >= 100 else ".1f" if abs(figure) >= 10 else ".2f"
