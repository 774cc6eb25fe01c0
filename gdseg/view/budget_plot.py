"""The label-budget curve: score against the count of labelled images, mean and spread over seeds.

Called by `gdseg budget` and the report; the rows are those of `train/budget_report.py:summary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gdseg.view.colours import class_colour
from gdseg.view.plots import keep_dots_whole, widen_single

_CURVES = {"teacher": ("pretrained teacher", 4, ":"), "labels": ("labels alone", 1, "--")}
_STUDENTS = (5, 2, 6, 3, 7, 8, 9, 10)  # colours of the variants


def plot_budget(table: Sequence[dict[str, Any]], metric: str, files: Sequence[Path]) -> None:
    """Draw the table's curves into each of `files` (.svg, .png, .pdf).

    Teacher and labels alone are the first variant's, so is the line of all labels; each variant has
    a student.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    variants = list(dict.fromkeys(row["variant"] for row in table))
    first = [row for row in table if row["variant"] == variants[0]]
    for kind, (word, colour, line) in _CURVES.items():
        _curve(axes, first, kind, word, colour, line)
    for i, variant in enumerate(variants):
        own = [row for row in table if row["variant"] == variant]
        word = "student" if len(variants) == 1 else f"student, {variant}"
        _curve(axes, own, "student", word, _STUDENTS[i % len(_STUDENTS)], "-")
    _ceiling(axes, first)
    counts = sorted({row["labelled"] for row in table})
    if len(counts) > 1:
        axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("labelled images")
    axes.set_ylabel(f"{metric.replace('_ap', ' AP').replace('_', ' ')} on the validation images (%)")
    widen_single(axes, counts)
    keep_dots_whole(axes)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="best")
    for file in files:
        figure.savefig(file, dpi=150)


def _curve(axes: Axes, rows: Sequence[dict[str, Any]], kind: str, word: str, colour: int, line: str) -> None:
    there = sorted((row for row in rows if row[kind]), key=lambda row: row["labelled"])
    if not there:
        return
    counts = [row["labelled"] for row in there]
    means = [100 * row[kind]["mean"] for row in there]
    spreads = [100 * (row[kind]["std"] or 0) for row in there]
    style: dict[str, Any] = {
        "color": _colour(colour),
        "linestyle": line,
        "marker": "o",
        "markersize": 4,
        "capsize": 3,
    }
    axes.errorbar(counts, means, yerr=spreads if any(spreads) else None, label=word, **style)


def _ceiling(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """All labels: the same at every ratio."""
    known = [row["all"] for row in rows if row["all"]]
    if known:
        mean, spread = 100 * known[0]["mean"], 100 * (known[0]["std"] or 0)
        axes.axhline(mean, color="0.35", linewidth=1, label="all labels")
        axes.axhspan(mean - spread, mean + spread, color="0.35", alpha=0.12, linewidth=0)


def _colour(label: int) -> tuple[float, float, float]:
    red, green, blue = class_colour(label)
    return red / 255, green / 255, blue / 255
