"""Several runs on one page: a table, and the label-budget curve where their numbers of labels differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gdseg.eval.gap import gap_closed
from gdseg.eval.tables import percent
from gdseg.report.run import Run
from gdseg.report.setting import labelled_images
from gdseg.view.page import Block, Figure, Figures, Section, Table, Text
from gdseg.view.plots import is_number
from gdseg.view.report_plots import BudgetLine, label_budget
from gdseg.view.svg import inline_svg

_COLUMNS = ("pretrained teacher", "EMA teacher", "student")

Like = tuple[str, str]  # data set and steps in words: equal for runs that may be compared


def comparison(runs: Sequence[Run]) -> Section:
    """A row for each run; runs of different metrics do not share a curve."""
    best = {run.path: _as_columns(run.best()) for run in runs}
    there = [name for name in _COLUMNS if any(name in each for each in best.values())]
    gaps = {run.path: _gap_from_teacher(run, runs) for run in runs}
    told = any(gap is not None for gap in gaps.values())
    rows = []
    for run in runs:
        labelled = labelled_images(run)
        row = [run.name, *(percent(best[run.path].get(name)) for name in there)]  # first what a phone shows
        row += [percent(gaps[run.path])] * told
        row += [run.metric_name, "-" if labelled is None else str(labelled)]
        rows.append([*row, str(run.about.get("seed", "-")), str(run.about.get("verb", "-"))])
    header = ["run", *there, *["gap from teacher"] * told, "metric", "labelled images", "seed", ""]
    blocks: list[Block] = [Table("Best of each run on its validation images, %", header, rows)]
    if told:
        text = (
            "Gap from teacher: (student - pretrained teacher) / (all labels - pretrained teacher), against "
            "the run here that pretrained with every label, of the same seed and for as many steps in all."
        )
        blocks.append(Text(text, ""))
    for metric in dict.fromkeys(run.metric for run in runs):
        blocks += _budget([run for run in runs if run.metric == metric])
    return Section("Comparison", blocks)


def _as_columns(best: dict[str, float]) -> dict[str, float]:
    """Pretraining's own network, on this page, is what distillations started from."""
    return {"pretrained teacher" if name == "teacher" else name: value for name, value in best.items()}


def _gap_from_teacher(run: Run, runs: Sequence[Run]) -> float | None:
    """Of a distillation, where the page also has pretraining with every label of the same data.

    That is of the same seed, for as many steps as teacher and student took together.
    """
    best = run.best()
    full = [
        other.best()["teacher"]
        for other in runs
        if other.about.get("verb") == "pretrain"
        and all(other.about.get(key) == run.about.get(key) for key in ("data_sha256", "seed"))
        and (other.metric, _steps(other)) == (run.metric, _steps(run))
        and _has_all_labels(other)
        and "teacher" in other.best()
    ]
    ceiling = sum(full) / len(full) if full else None
    return gap_closed(best.get("student"), best.get("pretrained teacher"), ceiling)


def _steps(run: Run) -> int | None:
    """Optimiser steps of a pretraining; of a distillation the teacher's too. None: not known."""
    if run.recipe is None:
        return None
    return run.recipe.train.steps + (run.recipe.distill.steps if run.about.get("verb") == "distill" else 0)


def _has_all_labels(run: Run) -> bool:
    if run.data is not None:
        return len(run.data.labelled) == len(run.data.dataset.train)
    images = run.about.get("images")
    total = images.get("train") if isinstance(images, dict) else None
    return total is not None and labelled_images(run) == total


def _budget(runs: Sequence[Run]) -> list[Block]:
    """The curve of runs that share a metric, if their numbers of labels differ."""
    lines, metric = budget_lines(runs), runs[0].metric_name
    if len({x for line in lines for x, _ in line.points}) < 2:
        return []
    svg = inline_svg(label_budget(lines, metric), f"{metric} over the number of labelled images")
    caption = "Dots are runs; lines go through the means of runs on the same data, for as many steps."
    return [Figures([Figure(f"{metric} by label budget", svg, caption)])]


def budget_lines(runs: Sequence[Run]) -> list[BudgetLine]:
    """Those of runs with one kind of arm, data set and steps; labels say what tells them from the others."""
    groups: dict[tuple[str, Like], list[tuple[float, float]]] = {}
    for run in runs:
        labelled, best = labelled_images(run), run.best()
        for role, name in (("teacher", "labels alone"), ("student", "student")):
            if is_number(labelled) and labelled and role in best:
                groups.setdefault((name, _like(run)), []).append((labelled, best[role]))
    lines = []
    for (name, like), points in groups.items():
        others = [other for kind, other in groups if kind == name]
        parts = [own for own, each in zip(like, zip(*others, strict=True), strict=True) if len(set(each)) > 1]
        alone = len({x for x, _ in points}) < 2 and len(others) > 1
        why = "\n(not joined: other data or steps)" if alone else ""
        lines.append(BudgetLine(", ".join([name, *parts]) + why, name, points))
    return lines


def _like(run: Run) -> Like:
    """What runs on one line share: data set, steps. A run of which one is not known is like no other."""
    place, sha256 = str(run.about.get("data", "")), run.about.get("data_sha256")
    if run.recipe is None or not sha256:
        return str(run.path.resolve()), "steps not known"
    steps = f"{run.recipe.train.steps} steps"
    if run.about.get("verb") == "distill":
        steps = f"{run.recipe.train.steps} + {run.recipe.distill.steps} steps"
    return f"{Path(place).name} {str(sha256)[:6]}", steps
