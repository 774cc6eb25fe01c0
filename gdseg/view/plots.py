"""Curves of a run: losses, AP of teacher and student, pseudo-labels an image.

Reads metrics.jsonl, eval.jsonl and run.json as `train/log.py` and `train/start.py` write them; what
is missing is left out. Called by `gdseg visualize RUN` and `gdseg report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gdseg.errors import DataError
from gdseg.runs import network_name, read_run
from gdseg.view.colours import class_colour

Rows = Sequence[dict[str, Any]]
_NETWORKS = {"teacher": 4, "EMA teacher": 4, "student": 5}  # colours: blue, vermilion
_LOSSES_SHOWN = 6
# key in eval.jsonl: what it is one of, and its line
_METRICS = {
    "mask_ap": ("AP", "-"),
    "box_ap": ("AP", ":"),
    "pq": ("panoptic quality", "-"),
    "pq_things": ("panoptic quality", ":"),
    "pq_stuff": ("panoptic quality", "--"),
    "miou": ("mIoU", "-"),
}
_BELOW: dict[str, Any] = {"fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 2}


def plot_run(run: Path, out: Path) -> list[str]:
    """Draw the curves of a run into `out` (.png, .pdf, .svg) and return the panels' names.

    Raises DataError when the run has logged nothing.
    """
    panels = run_panels(run)
    if not panels:
        raise DataError(
            "the run has logged nothing yet", run, "it writes its first line after train.log_every steps"
        )
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    with rc_context({"text.parse_math": False}):  # names are data
        for place, (name, paint) in zip(places, panels.items(), strict=True):
            paint(place)
            place.set_title(panel_title(name))
            place.spines[["top", "right"]].set_visible(False)
        figure.suptitle(run.name)
        figure.savefig(out, dpi=120)
    return list(panels)


def panel_title(name: str) -> str:
    """What to write over a panel of `run_panels`."""
    return f"{name} on the validation images (%)" if name in dict(_METRICS.values()) else name


def run_panels(run: Path) -> dict[str, Callable[[Axes], None]]:
    """Name -> what paints the panel, for all that the run has logged."""
    metrics, evals = read_lines(run / "metrics.jsonl"), read_lines(run / "eval.jsonl")
    about = read_run(run)
    quality = partial(_quality, verb=about.get("verb"))
    panels: dict[str, tuple[Rows, Callable[[Axes, Rows], None]]] = {
        "losses": ([r for r in metrics if is_number(r.get("loss"))], _losses),
        _measured(evals): ([r for r in evals if any(is_number(r.get(key)) for key in _METRICS)], quality),
        "pseudo-labels": ([r for r in metrics if is_number(r.get("pseudo_per_image"))], _pseudo),
    }
    burn_in = about.get("burn_in_steps")
    return {
        name: partial(_panel, rows=rows, paint=paint, burn_in=burn_in)
        for name, (rows, paint) in panels.items()
        if rows
    }


def _panel(axes: Axes, rows: Rows, paint: Callable[[Axes, Rows], None], burn_in: object) -> None:
    paint(axes, rows)
    steps = [row["step"] for row in rows]
    if is_number(burn_in) and burn_in:
        steps.append(burn_in)
        axes.axvline(burn_in, color="0.4", linestyle="--", linewidth=1)
        axes.annotate("burn-in ends", (burn_in, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_xlabel("optimiser step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    widen_single(axes, steps)
    axes.grid(alpha=0.3)


def widen_single(axes: Axes, xs: Sequence[float]) -> None:
    """Room beside dots that are all at one place, whose own limits would be fractions around it."""
    if len(set(xs)) == 1:
        axes.set_xlim(xs[0] - 1, xs[0] + 1)


def keep_dots_whole(axes: Axes) -> None:
    """The vertical axis from 0 on, with dots at its ends drawn whole."""
    axes.set_ylim(bottom=0)
    for line in axes.lines:
        line.set_clip_on(False)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file that have a step; a missing file has none, a broken line is skipped."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be drawn
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and is_number(row.get("step")):
            rows.append(row)
    return rows


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _curve(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    return [x for x, _ in points], [y for _, y in points]


def _marker(rows: Rows) -> str | None:
    """Dots where there are too few rows for a line to be seen."""
    return "." if len(rows) < 3 else None


def colour(label: int) -> tuple[float, float, float]:
    """The class colour as matplotlib wants it."""
    red, green, blue = class_colour(label)
    return red / 255, green / 255, blue / 255


def _losses(axes: Axes, rows: Rows) -> None:
    """The total, and the largest of its terms summed over layers and streams."""
    axes.plot(*_curve(rows, "loss"), marker=_marker(rows), color=rcParams["text.color"], label="total")
    grouped = [{"step": row["step"], **_by_kind(row.get("losses"))} for row in rows]
    last = {name: value for name, value in grouped[-1].items() if name != "step"}
    for i, name in enumerate(sorted(last, key=lambda name: -last[name])[:_LOSSES_SHOWN]):
        axes.plot(*_curve(grouped, name), marker=_marker(rows), color=colour(i), linewidth=1, label=name)
    if all(row["loss"] > 0 for row in rows):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # else one number at most in a decade
        axes.yaxis.set_major_formatter("{x:g}")  # plain text, as math is not parsed
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(**_BELOW)


def _by_kind(losses: object) -> dict[str, float]:
    """Terms of one kind added up: "mask_3", "dn_mask_0", "mask" are "mask"; "_unlabelled" stays apart."""
    sums: dict[str, float] = {}
    for name, value in losses.items() if isinstance(losses, dict) else ():
        if is_number(value):
            stream = " (unlabelled)" if name.endswith("_unlabelled") else ""
            words = [w for w in name.removesuffix("_unlabelled").split("_") if not w.isdigit()]
            kind = " ".join(w for w in words if w not in ("loss", "final", "interm")) + stream
            sums[kind] = sums.get(kind, 0.0) + value
    return sums


def _measured(evals: Rows) -> str:
    """What was evaluated, by the first metric that is there."""
    found = [title for key, (title, _) in _METRICS.items() if any(key in row for row in evals)]
    return found[0] if found else "AP"


def _quality(axes: Axes, rows: Rows, verb: str | None) -> None:
    """The main metric solid, others dotted or dashed; teacher and student of the verb's run on one axis."""
    roles = dict.fromkeys(str(row.get("role", "network")) for row in rows)
    for role in roles:
        name = network_name(role, verb)
        own = [row for row in rows if str(row.get("role", "network")) == role]
        for key, (_, line) in _METRICS.items():
            steps, values = _curve(own, key)
            if not steps:
                continue
            label = f"{name} {key.replace('_ap', ' AP').replace('_', ' ')}"
            percent = [100 * value for value in values]
            axes.plot(
                steps,
                percent,
                line,
                color=colour(_NETWORKS.get(name, 2)),
                marker="o",
                markersize=3,
                label=label,
            )
    keep_dots_whole(axes)
    axes.legend(**_BELOW)


def _pseudo(axes: Axes, rows: Rows) -> None:
    """Count an image on the left axis, mean score on the right one."""
    marker = _marker(rows)
    lines = axes.plot(
        *_curve(rows, "pseudo_per_image"), marker=marker, color=colour(2), label="an image (left)"
    )
    steps, scores = _curve(rows, "pseudo_score")
    if steps:
        right = axes.twinx()
        lines += right.plot(
            steps, scores, marker=marker, color=colour(6), linestyle="--", label="mean score (right)"
        )
        keep_dots_whole(right)
        right.set_ylim(0, 1)
        right.spines["top"].set_visible(False)
    keep_dots_whole(axes)
    axes.legend(handles=lines, **_BELOW)
