"""Pictures of the figures: what the marks ask for and what was found, and how cost grows.

Colours are Okabe and Ito's, which people who are colour-blind tell apart; what matters has a shape of its own, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_REACHED, _MISSED, _OTHER, _QUIET = "#0072B2", "#D55E00", "#000000", "#767676"
_LINES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
_MARKERS = "osD^vPX"
_MOST = 16
_DPI = 130


def draw(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what there are figures for; return the files."""
    drawn = {"marks.png": _marks(figures), "growth.png": _growth(figures)}
    paths = []
    for name, picture in drawn.items():
        if picture is not None:
            picture.savefig(folder / name, dpi=_DPI, facecolor="white")
            paths.append(folder / name)
    return paths


# --- marks ------------------------------------------------------------------------------------------------------------


def _marks(figures: Mapping[str, Any]) -> Figure | None:
    marks = [mark for work in figures.values() for result in work["results"] for mark in result.get("marks", ())]
    if not marks:
        return None
    picture = Figure(figsize=(9, 1.6 + 0.36 * len(marks)), layout="constrained")
    axes = picture.subplots()
    for row, mark in enumerate(marks):
        _mark(axes, row, mark)
    axes.axvline(1, color=_OTHER, linewidth=1.2)
    axes.set_yticks(range(len(marks)), [f"{mark['work']}   {mark['mark']}" for mark in marks])
    axes.set_ylim(len(marks) - 0.4, -0.6)
    _logarithmic(axes, "x", [2.0**power for power in range(-4, 5)])
    axes.set_xlim(1 / (_MOST * 1.2), _MOST * 1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: _times(at)))
    axes.set_title("How many times the mark was found: right of the line it is reached", loc="left", fontsize=11)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    _plain(axes)
    return picture


def _mark(axes: Axes, row: int, mark: Mapping[str, Any]) -> None:
    """One row: median and spread of what counts, and hollow the other driver's median."""
    (_, figures), *others = mark["figures"].items()
    colour, marker = (_REACHED, "o") if mark["reached"] else (_MISSED, "D")
    scores = [_score(mark, found) for found in figures]
    middle = _score(mark, median(figures))
    axes.plot([min(scores), max(scores)], [row, row], color=colour, linewidth=2, alpha=0.5, solid_capstyle="round")
    axes.plot(middle, row, marker, color=colour, markersize=7)
    for _, found in others:
        axes.plot(_score(mark, median(found)), row, marker, markerfacecolor="white", markeredgecolor=_QUIET, zorder=1)
    text = f"{median(figures):.2f}" if abs(median(figures)) < 100 else f"{median(figures):,.0f}"
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    place = {"textcoords": "offset points", "ha": "center"}
    axes.annotate(text, (middle, row), (0, 7), fontsize=8, color=colour, bbox=behind, **place)


def _times(at: float) -> str:
    return "the mark" if at == 1 else f"{at:g}" if at > 1 else f"1/{1 / at:g}"


def _score(mark: Mapping[str, Any], found: float) -> float:
    """How many times better than the mark; within the picture."""
    bound = mark["bound"]
    score = found / bound if mark["at_least"] else bound / max(found, bound / _MOST)
    return float(min(max(score, 1 / _MOST), _MOST))


# --- growth -----------------------------------------------------------------------------------------------------------


def _growth(figures: Mapping[str, Any]) -> Figure | None:
    panels = {
        "at-size": ("Sessions in the database", _sizes),
        "by-events": ("Events a session", _events),
        "by-callers": ("Clients at once", _callers),
        "workers": ("Workers", _workers),
    }
    there = {work: panel for work, panel in panels.items() if work in figures}
    if not there:
        return None
    picture = Figure(figsize=(11, 4.2 * -(-len(there) // 2)), layout="constrained")
    for place, (work, (title, panel)) in enumerate(there.items(), start=1):
        axes = picture.add_subplot(-(-len(there) // 2), min(2, len(there)), place)
        panel(axes, figures[work]["results"])
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
        _plain(axes)
    return picture


def _sizes(axes: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    works = [result for result in results if result["medians_are"] != "milliseconds of a call"]
    for style, result in zip(_styles(), works, strict=False):
        runs = {_number(name): [run["seconds"] for run in found] for name, found in result["runs"].items()}
        smallest = runs[min(runs)]
        # By round, as the marks have it: what a noisy neighbour does to a round, it does to all sizes.
        shares = {at: median(map(truediv, smallest, seconds)) for at, seconds in sorted(runs.items())}
        axes.plot(list(shares), list(shares.values()), label=result["name"], **style)
    axes.axhline(0.9, color=_OTHER, linewidth=1, linestyle="--")
    axes.annotate("mark: 0.9", (1, 0.9), (-4, -11), ("axes fraction", "data"), "offset points", ha="right", fontsize=8)
    axes.set_ylim(0, None)
    _logarithmic(axes, "x", sorted(results[0]["sizes"]))
    axes.set(xlabel="sessions stored", ylabel="rate, of that at the smallest")


def _events(axes: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    for style, result in zip(_styles(), results, strict=False):
        points = [(_number(name), 1e6 / rate) for name, rate in result["medians"].items()]
        axes.plot(*zip(*points, strict=True), label=result["name"].partition(",")[0], **style)
    axes.set(xlabel="events a session", ylabel="µs for a session", ylim=(0, None))


def _callers(axes: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    for style, result in zip(_styles(), results, strict=False):
        points = [(_number(name), rate) for name, rate in result["medians"].items()]
        axes.plot(*zip(*points, strict=True), label=result["name"].partition(",")[0], **style)
        _logarithmic(axes, "x", [at for at, _ in points])
    axes.set(xlabel="calls in flight", ylabel="calls a second", ylim=(0, None))


def _workers(axes: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    counts = sorted({result["workers"] for result in results})
    for style, work in zip(_styles(), dict.fromkeys(result["work"] for result in results), strict=False):
        rates = [
            median(found["per_s"] for found in results if (found["work"], found["workers"]) == (work, count))
            for count in counts
        ]
        axes.plot(counts, [rate / rates[0] for rate in rates], label=work, **style)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.set(xlabel="worker processes", ylabel="rate, of that with one", ylim=(0, None))


def _styles() -> Iterator[dict[str, Any]]:
    for colour, marker in zip(_LINES, _MARKERS, strict=True):
        yield {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}


def _number(name: str) -> int:
    """That a contestant's name begins with."""
    return int(name.split(maxsplit=1)[0].replace(",", ""))


def _logarithmic(axes: Axes, which: str, ticks: Sequence[float]) -> None:
    axes.set_xscale("log", base=2) if which == "x" else axes.set_yscale("log", base=2)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:,g}" if at < 1 else f"{at:,.0f}"))


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
