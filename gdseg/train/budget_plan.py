"""What `gdseg budget` must train: arms (variant, ratio, seed, kind) and the runs behind them, each run once.

Kinds of arms, with the same count of optimiser steps in the end, so that a student does not win by more of
them: `labels` trains on the labelled part alone for train.steps + distill.steps, `teacher` for train.steps,
`student` is distilled from that teacher for distill.steps, `all` trains on all labels for as long as
`labels`. Not the same count of images: a student's step also sees distill.unlabelled_batch_size unlabelled
ones; `--arms labels,all train.steps=N` gives both as many. Two arms whose runs could not differ share one.
Called by budget.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from gdseg.data.dataset import open_dataset, unlabelled_records
from gdseg.errors import DataError
from gdseg.files import file_sha256, plain
from gdseg.recipe import Data, Recipe
from gdseg.recipe_yaml import apply_overrides, key_paths
from gdseg.train.start import images_sha256, labels_sha256
from gdseg.words import ARMS

KINDS = tuple(ARMS)
# what no network depends on, and what none that is trained on labels alone depends on
_NEVER = ("data.workers", "train.log_every", "train.save_every", "train.tensorboard")
_STUDENTS_ONLY = (
    "distill.",
    "data.unlabelled",
    *(f"augment.{name}" for name in ("jitter", "grey_p", "blur", "cutout")),
)


class Arm(NamedTuple):
    """One cell of the experiment; ratio None: the labelled part that the recipe's split names."""

    variant: str
    ratio: float | None
    seed: int
    kind: str

    @property
    def name(self) -> str:
        """What a line calls it."""
        share = "split" if self.ratio is None else f"{self.ratio:g}"
        return f"{self.variant}, {share}, seed {self.seed}: {ARMS[self.kind]}"


@dataclass(frozen=True)
class Job:
    """One run: `key` is the hash of all that decides its outcome, `teacher` the key of its teacher's run."""

    key: str
    recipe: Recipe = field(repr=False)
    teacher: str | None = None

    @property
    def verb(self) -> str:
        """pretrain or distill."""
        return "distill" if self.teacher else "pretrain"

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        return f"{self.verb}-{self.key}"

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.recipe.distill.steps if self.teacher else self.recipe.train.steps


@dataclass
class Plan:
    """Arms and the key of each one's run; the runs by key, a teacher before its students.

    recipes: of each variant, the name of the recipe and the overrides it was made by, which tell plans apart.
    """

    arms: dict[Arm, str] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    recipes: Mapping[str, str] = field(default_factory=dict)

    def add(self, arm: Arm, job: Job) -> Job:
        """Note an arm and its run; returns the run."""
        self.arms[arm] = job.key
        return self.jobs.setdefault(job.key, job)


def make_plan(
    variants: Mapping[str, Recipe],
    ratios: Sequence[float | None],
    seeds: Sequence[int],
    kinds: Sequence[str] = KINDS,
    data_sha256: Callable[[Data, str], str] | None = None,
) -> Plan:
    """All arms, seed by seed, so that a first answer is there early. A student brings its teacher along.

    data_sha256(data section, task): what stands for the labels in keys (default: read them).
    Raises DataError when labels are missing, RecipeError for a ratio or seed that is none.
    """
    digest = data_sha256 or _data_sha256
    plan = Plan()
    for seed in seeds:
        for ratio in ratios:
            part = [] if ratio is None else ["data.split=null", f"data.ratio={ratio}"]
            for variant, recipe in variants.items():
                own = apply_overrides(recipe, [f"seed={seed}", *part])
                _add(plan, Arm(variant, ratio, seed, ""), own, kinds, digest)
    return plan


def _add(
    plan: Plan, arm: Arm, recipe: Recipe, kinds: Sequence[str], digest: Callable[[Data, str], str]
) -> None:
    labels, longer = digest(recipe.data, recipe.task), recipe.train.steps + recipe.distill.steps
    if {"teacher", "student"} & set(kinds):
        teacher = plan.add(arm._replace(kind="teacher"), _job(recipe, labels))
        if "student" in kinds:
            plan.add(arm._replace(kind="student"), _job(recipe, labels, teacher.key))
    long = replace(recipe, train=replace(recipe.train, steps=longer))
    if "labels" in kinds:
        plan.add(arm._replace(kind="labels"), _job(long, labels))
    if "all" in kinds:
        everything = replace(long, data=replace(long.data, ratio=1.0, split=None))
        plan.add(arm._replace(kind="all"), _job(everything, digest(everything.data, recipe.task)))


def _job(recipe: Recipe, labels_sha256: str, teacher: str | None = None) -> Job:
    unused = _NEVER if teacher else _NEVER + _STUDENTS_ONLY
    identity = [teacher, labels_sha256, _changed(recipe, unused)]
    if teacher and recipe.data.unlabelled:
        identity.append(_images_sha256(tuple(recipe.data.unlabelled)))
    text = json.dumps(plain(identity), sort_keys=True)
    return Job(hashlib.sha256(text.encode()).hexdigest()[:12], recipe, teacher)


def _changed(recipe: Recipe, unused: tuple[str, ...]) -> dict[str, Any]:
    """The keys that differ from their default: a key that a later version adds, off, changes no hash."""
    own, default = dict(_values(recipe)), dict(_values(Recipe()))
    return {k: v for k, v in own.items() if v != default[k] and not k.startswith(unused)}


def _values(recipe: Recipe) -> list[tuple[str, Any]]:
    pairs = []
    for path, _ in key_paths():
        section, _, name = path.rpartition(".")
        pairs.append((path, getattr(getattr(recipe, section) if section else recipe, name)))
    return pairs


def _data_sha256(data: Data, task: str) -> str:
    """Hash of the labels and of the split, if it is a file. Raises DataError when one of them is missing."""
    labels = _labels_sha256(json.dumps(vars(replace(data, ratio=1.0, split=None, workers=0))), task)
    return labels + (file_sha256(Path(data.split)) if data.split else "")


@lru_cache
def _images_sha256(folders: tuple[str, ...]) -> str:
    return images_sha256(unlabelled_records([Path(folder) for folder in folders]))


@lru_cache
def _labels_sha256(places: str, task: str) -> str:
    dataset = open_dataset(Data(**json.loads(places)), task=task)
    if not dataset.val:
        what = "there are no validation labels to measure with"
        raise DataError(what, dataset.root, "name them with data.val=FILE")
    parts = (dataset.train_json, dataset.train), (dataset.val_json, dataset.val)
    return "".join(labels_sha256(labels, records) or "" for labels, records in parts)
