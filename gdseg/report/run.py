"""A run directory as far as it can still be read: what it says of itself, its logs, its data and networks.

What is gone or broken becomes a sentence in `notes`, never an error: a report of the rest is still wanted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdseg.errors import GdsegError, UsageError
from gdseg.models.checkpoint import read_metadata
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import load_recipe
from gdseg.runs import network_name, networks_of, read_run
from gdseg.train.start import Start, labels_sha256, open_data
from gdseg.view.plots import is_number, read_lines

METRIC_NAMES = {"mask_ap": "mask AP", "mask_ap50": "mask AP50", "box_ap": "box AP", "box_ap50": "box AP50"}
METRIC_NAMES |= {"pq": "PQ", "pq_things": "PQ of things", "pq_stuff": "PQ of stuff", "miou": "mIoU"}


@dataclass
class Run:
    """about: run.json; split: split.json; the jsonl files as lists; files: see `runs.networks_of`."""

    path: Path
    about: dict[str, Any]
    split: dict[str, Any]
    metrics: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    times: list[dict[str, Any]]
    files: dict[str, Path]
    recipe: Recipe | None = None
    data: Start | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def metric(self) -> str:
        """The key of the main metric."""
        return self.recipe.best_metric if self.recipe else "mask_ap"

    @property
    def metric_name(self) -> str:
        """The main metric in words."""
        return METRIC_NAMES.get(self.metric, self.metric)

    def best(self) -> dict[str, float]:
        """Network -> its best main metric in 0..1: logged, or of the pretrained teacher from its file."""
        found: dict[str, float] = {}
        if "pretrained teacher" in self.files:
            value = _stored(self.files["pretrained teacher"], self.metric)
            found |= {"pretrained teacher": value} if is_number(value) else {}
        for role in ("teacher", "student"):
            values = [row[self.metric] for row in self.evals if _is_of(row, role, self.metric)]
            found |= {network_name(role, self.about.get("verb")): max(values)} if values else {}
        return found


def _is_of(row: dict[str, Any], role: str, metric: str) -> bool:
    return row.get("role") == role and is_number(row.get(metric))


def _stored(file: Path, metric: str) -> Any:
    try:
        return json.loads(read_metadata(file)["metrics"]).get(metric)
    except (GdsegError, KeyError, ValueError, AttributeError):
        return None


def open_run(path: Path) -> Run:
    """Read a run. Raises UsageError where the folder is none."""
    metrics, evals, times = (read_lines(path / f"{name}.jsonl") for name in ("metrics", "eval", "time"))
    about = read_run(path)
    if not (about or metrics or evals):
        raise UsageError("not a run directory", path, "give the folder that pretrain or distill has written")
    split = _read_object(path / "split.json")
    run = Run(path, about, split, metrics, evals, times, networks_of(path))
    if about.get("verb") == "distill" and "pretrained teacher" not in run.files:
        run.notes.append("The pretrained teacher it started from is gone or was replaced, and is left out.")
    try:
        run.recipe = load_recipe(str(path / "recipe.yaml"))
    except GdsegError as error:
        run.notes.append(f"The recipe cannot be read ({error.what}): only logs and curves are shown.")
        return run
    _open_data(run)
    return run


def _open_data(run: Run) -> None:
    assert run.recipe is not None
    try:
        run.data = open_data(run.recipe, run.path)
    except GdsegError as error:
        run.notes.append(
            f"The data set cannot be opened ({error.what}; {error.where}): what needs images is left out."
        )
        return
    recorded = run.about.get("data_sha256")
    if recorded and recorded != labels_sha256(run.data.dataset.train_json, run.data.dataset.train):
        run.notes.append("The training labels are not those of the run any more: their sha256 differs.")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
