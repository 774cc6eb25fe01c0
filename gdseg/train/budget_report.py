"""What `gdseg budget` says of its results: a table over seeds, budget.json, and pictures of one image.

Gap closed is (student - base) / (all labels - base), with the teacher as base, and with labels alone for as
many steps as teacher and student took together. Seeds are paired: each has its own labelled images, and its
own gap. Called by cli/budget.py.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gdseg.coco_json import truth_predictions
from gdseg.data.dataset import open_dataset
from gdseg.data.images import read_image
from gdseg.data.label_maps import with_masks
from gdseg.eval.gap import gap_closed
from gdseg.files import write_json
from gdseg.models.checkpoint import load_network
from gdseg.predict import Predictor, as_tensor
from gdseg.recipe import Recipe
from gdseg.train.budget import Result, finished, last_network, run_folder
from gdseg.train.budget_plan import KINDS, Plan
from gdseg.view.budget_plot import plot_budget
from gdseg.view.draw import displayable
from gdseg.view.sheets import Sheet, spread
from gdseg.words import ARMS, counted
from gdseg.writers import save_picture

_LOG = logging.getLogger(__name__)
# what a row of the table tells, each as mean, spread and values over seeds
SCORES = (*KINDS, "average")
GAINS = ("gain", "gap_from_teacher", "gap_from_labels", "over_first")


def save_results(plan: Plan, out: Path, metric: str) -> dict[str, Any]:
    """Write OUT/budget.json with what is finished of a plan, and return it: metric, rows of arms, table.

    OUT/runs.json keeps the rows of earlier plans too: by run, by what it was for.
    """
    rows = arm_rows(plan, gather(plan, out), metric)
    report = {"metric": metric, "runs": len(plan.jobs), "arms": rows, "table": summary(rows)}
    write_json(out / "budget.json", report)
    _remember(out / "runs.json", rows, metric)
    return report


def _remember(path: Path, rows: list[dict[str, Any]], metric: str) -> None:
    runs = _remembered(path)
    for row in rows:
        runs.setdefault(row["run"], {})[f"{row['name']} ({row['recipe']})"] = {"metric": metric, **row}
    write_json(path, runs)


def _remembered(path: Path) -> dict[str, dict[str, Any]]:
    """What runs.json says; a broken one is put aside, not lost."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        known = None
    if isinstance(known, dict) and all(isinstance(names, dict) for names in known.values()):
        return known
    aside = path.with_suffix(".broken.json")
    path.replace(aside)
    _LOG.warning("%s is not as gdseg writes it; it is %s now, and a new one is begun", path, aside.name)
    return {}


def gather(plan: Plan, out: Path) -> dict[str, Result]:
    """The results that are there, by key."""
    return {key: found for key, job in plan.jobs.items() if (found := finished(out, job))}


def draw_results(
    plan: Plan, out: Path, report: dict[str, Any], device: torch.device, conf: float, images: int = 3
) -> list[str]:
    """Draw OUT/budget.svg and .png, and overlays.png of a few images; returns the names of what was drawn.

    Those of an earlier plan go where this one has none.
    """
    drawn = []
    if any(row[kind] for row in report["table"] for kind in KINDS):
        drawn = ["budget.svg", "budget.png"]
        plot_budget(report["table"], report["metric"], [out / name for name in drawn])
    sheet = overlay_sheet(plan, gather(plan, out), out, device, conf, images)
    if sheet:
        save_picture(sheet, out / "overlays.png")
        drawn.append("overlays.png")
    for name in {"budget.svg", "budget.png", "overlays.png"}.difference(drawn):
        (out / name).unlink(missing_ok=True)
    return drawn


def arm_rows(plan: Plan, results: Mapping[str, Result], metric: str) -> list[dict[str, Any]]:
    """A row for each arm that has a result; `score` is the last one of its network, 0..1.

    `average` is that of the student's moving average. A run that diverged has neither.
    """
    rows = []
    for arm, key in plan.arms.items():
        job = plan.jobs[key]
        if key not in results:
            continue
        result = results[key]
        row = {"name": arm.name, **arm._asdict(), "recipe": plan.recipes.get(arm.variant, "")}
        row["data"] = job.recipe.data.root
        row |= {"labelled": result.labelled, "steps": job.steps, "seconds": result.seconds}
        row |= {"score": result.scores.get(_role(arm.kind), {}).get(metric), "run": f"runs/{job.folder}"}
        if arm.kind == "student":
            row["average"] = result.scores.get("teacher", {}).get(metric)
        rows.append(row | ({"diverged": result.diverged} if result.diverged else {}))
    return rows


def _role(kind: str) -> str:
    """Which network of its run an arm is about."""
    return "student" if kind == "student" else "teacher"


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each variant and ratio: means and spreads over seeds of scores, gains and gaps.

    `seeds` of the row, finished or diverged; `seconds` of its runs but for those that an earlier row has.
    """
    table: list[dict[str, Any]] = []
    told: set[str] = set()
    places = dict.fromkeys((row["variant"], row["ratio"]) for row in rows)
    first = next(iter(places))[0] if places else ""
    for variant, ratio in places:
        cells, base = _cells(rows, variant, ratio), _cells(rows, first, ratio)
        own = [row for row in rows if (row["variant"], row["ratio"]) == (variant, ratio)]
        labelled = max((row["labelled"] for row in own if row["kind"] != "all"), default=0)
        line: dict[str, Any] = {"variant": variant, "ratio": ratio, "labelled": labelled, "seeds": len(cells)}
        for name in SCORES:
            line[name] = _spread([cell.get(name) for cell in cells.values()])
        gains = [_gains(cell, base.get(seed, {})) for seed, cell in cells.items()]
        for name in GAINS:
            line[name] = _spread([gain[name] for gain in gains])
        seconds = {row["run"]: row["seconds"] for row in own if row["run"] not in told}
        told |= seconds.keys()
        table.append(line | {"seconds": sum(seconds.values())})
    return table


def _cells(
    rows: list[dict[str, Any]], variant: str, ratio: float | None
) -> dict[int, dict[str, float | None]]:
    """Scores by kind, of each seed."""
    cells: dict[int, dict[str, float | None]] = {}
    for row in rows:
        if (row["variant"], row["ratio"]) == (variant, ratio):
            cell = cells.setdefault(row["seed"], {})
            cell[row["kind"]] = row["score"]
            if row["kind"] == "student":
                cell["average"] = row["average"]
    return cells


def _gains(cell: Mapping[str, float | None], first: Mapping[str, float | None]) -> dict[str, float | None]:
    """Of one seed: student over labels alone, gaps closed, and student over the first variant's."""
    teacher, labels, student, everything = (cell.get(k) for k in ("teacher", "labels", "student", "all"))
    return {
        "gain": _minus(student, labels),
        "gap_from_teacher": gap_closed(student, teacher, everything),
        "gap_from_labels": gap_closed(student, labels, everything),
        "over_first": _minus(student, first.get("student")),
    }


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _spread(values: list[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation (None for one value) and the values; None if there is none."""
    there = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not there:
        return None
    deviation = statistics.stdev(there) if len(there) > 1 else None
    return {"mean": statistics.fmean(there), "std": deviation, "values": there}


def overlay_sheet(
    plan: Plan, results: Mapping[str, Result], out: Path, device: torch.device, conf: float, images: int
) -> Image.Image | None:
    """Truth, labels alone, teacher, student and all labels beside each other on validation images.

    Of each variant and ratio, with its first seed of which all kinds are there that any has; `images` of
    them, or one each where there are more variants and ratios. None if there is no student.
    """
    scored = {arm: key for arm, key in plan.arms.items() if key in results and not results[key].diverged}
    kinds = [kind for kind in KINDS if any(arm.kind == kind for arm in scored)]
    places: dict[tuple[str, float | None], dict[str, str]] = {}
    for arm in scored:
        keys = {kind: scored.get(arm._replace(kind=kind), "") for kind in kinds}
        if all(keys.values()):
            places.setdefault((arm.variant, arm.ratio), keys)
    if "student" not in kinds or not places:
        return None
    sheet = Sheet(f"Validation images, scores from {conf:g}", columns=1 + len(kinds))
    for (variant, _), keys in places.items():
        count = counted(results[keys["student"]].labelled, "labelled image")
        files = {
            ARMS[kind]: last_network(run_folder(out, plan.jobs[key]), _role(kind))
            for kind, key in keys.items()
        }
        recipe = plan.jobs[keys["student"]].recipe
        title = f"{variant}, {count}, seed {recipe.seed}"
        _add_rows(sheet, recipe, files, device, title, conf, max(1, images // len(places)))
    return sheet.render()


def _add_rows(
    sheet: Sheet,
    recipe: Recipe,
    files: Mapping[str, Path],
    device: torch.device,
    title: str,
    conf: float,
    images: int,
) -> None:
    dataset = open_dataset(recipe.data, ("val",), task=recipe.task)
    networks = {word: Predictor(load_network(file, device), device, file) for word, file in files.items()}
    filled = [record for record in dataset.val if record.label_map or record.annotations] or dataset.val
    for record in (filled[i] for i in spread(len(filled), images)):
        image = read_image(record.path, None)
        pixels, tensor = displayable(image), as_tensor(record.path, recipe.backbone.in_channels)
        labels = with_masks(record, dataset.task)
        truth, crowds = (truth_predictions(labels, dataset.classes, crowds=c) for c in (False, True))
        sheet.add(pixels, truth, f"{title}; truth: {len(truth)}", crowds)
        for word, network in networks.items():
            found = network.predict_tensor(tensor, conf)
            sheet.add(pixels, found, f"{word}: {len(found)}")
