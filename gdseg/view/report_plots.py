"""The report's plots besides the curves: thresholds, precision and recall, label budget.

Each returns what paints one pair of axes (see svg.py). Called by gdseg/report/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gdseg.view.plots import colour, keep_dots_whole

Paint = Callable[[Axes], None]
Line = tuple[Sequence[float], Sequence[float]]  # x, y
COLOURS = {"pretrained teacher": 2, "teacher": 4, "EMA teacher": 4, "student": 5, "labels alone": 2}
_LOOKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))  # marker and line of those of one colour


def role_colour(name: str, place: int = 0) -> tuple[float, float, float]:
    """The colour of a network in all plots; place: of one without a role among the others."""
    return colour(COLOURS.get(name, (4, 5, 2, 6, 11, 0)[place % 6]))


def precision_and_recall(lines: Mapping[str, tuple[Line, Line]], marks: Sequence[float], x: str) -> Paint:
    """Precision solid and recall dashed of each network over a threshold; marks: dotted verticals."""

    def _paint(axes: Axes) -> None:
        for place, (name, (precision, recall)) in enumerate(lines.items()):
            own = role_colour(name, place)
            axes.plot(*_percent(precision), color=own, label=f"{name}: precision")
            axes.plot(*_percent(recall), color=own, linestyle="--", label=f"{name}: recall")
        _threshold_axis(axes, marks, x)
        axes.set_ylim(0, 102)
        axes.set_ylabel("%")

    return _paint


def counts(lines: Mapping[str, Line], marks: Sequence[float], x: str, truth: float | None) -> Paint:
    """How many an image over a threshold; truth: the number in the labelled images."""

    def _paint(axes: Axes) -> None:
        for place, (name, line) in enumerate(lines.items()):
            axes.plot(*line, color=role_colour(name, place), label=name)
        if truth:
            axes.axhline(truth, color="0.5", linewidth=1, linestyle="-.", label="labels by hand")
        _threshold_axis(axes, marks, x)
        axes.set_ylim(bottom=0)

    return _paint


def _threshold_axis(axes: Axes, marks: Sequence[float], x: str) -> None:
    for mark in dict.fromkeys(marks):
        axes.axvline(mark, color="0.5", linewidth=1, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_xlabel(x)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _percent(line: Line) -> Line:
    return line[0], [100 * y for y in line[1]]


def pr_curves(
    curves: Mapping[str, NDArray[np.float64]], styles: Mapping[str, tuple[int, str]], *, legend: bool
) -> Paint:
    """Precision over recall; curves: precision at recall 0, 0.01, .. 1; styles: colour's label, line."""

    def _paint(axes: Axes) -> None:
        for name, precision in curves.items():
            label, line = styles[name]
            recall = np.linspace(0, 100, len(precision))
            own = name if legend else None  # names of classes are in the page
            axes.plot(recall, 100 * precision, line, color=colour(label), label=own, linewidth=1.3)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.set_xlabel("recall, %")
        axes.set_ylabel("precision, %")
        axes.grid(alpha=0.25)
        if legend:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)

    return _paint


class BudgetLine(NamedTuple):
    """Runs that may be compared: (labelled images, metric in 0..1) of each; role: what gives the colour."""

    label: str
    role: str
    points: Sequence[tuple[float, float]]


def label_budget(lines: Sequence[BudgetLine], metric: str) -> Paint:
    """Metric over labelled images: a dot for each run, and a line through the means of each `BudgetLine`."""

    def _paint(axes: Axes) -> None:
        drawn = Counter[str]()
        for line in lines:
            xs = sorted({x for x, _ in line.points})
            means = [100 * np.mean([y for x, y in line.points if x == each]) for each in xs]
            look = drawn[line.role] % len(_LOOKS)
            drawn[line.role] += 1
            own, (marker, dashes) = role_colour(line.role), _LOOKS[look]
            joined = len(xs) > 1
            if joined:
                axes.plot(xs, means, dashes, color=own, label=line.label)
            dots = [x for x, _ in line.points], [100 * y for _, y in line.points]
            axes.plot(*dots, marker, color=own, markersize=4, label=None if joined else line.label)
        axes.set_xscale("log")
        ticks = sorted({x for line in lines for x, _ in line.points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        keep_dots_whole(axes)
        axes.set_xlabel("labelled images")
        axes.set_ylabel(f"{metric}, %")
        axes.grid(alpha=0.25)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)

    return _paint
