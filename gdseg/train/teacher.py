"""The two networks of guided distillation at the start, and the teacher through time (arXiv 2308.02668 §3.2).

Called by distill.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from gdseg.data.dataset import Dataset
from gdseg.errors import CheckpointError
from gdseg.infer.run import forward
from gdseg.models.checkpoint import Network, load_network
from gdseg.models.model import SegmentationModel, build_model
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets
from gdseg.train.ema import update_ema
from gdseg.train.looks import all_looks
from gdseg.train.pseudo import class_scores, pseudo_targets
from gdseg.train.pseudo_maps import pseudo_maps
from gdseg.train.thresholds import ClassThresholds
from gdseg.train.watch import agreement
from gdseg.words import counted


class Teacher:
    """First the frozen `guide`, from step `burn_in_steps` on `average`, the student's moving average.

    guide: None once burn-in is over; things: of each class.
    """

    def __init__(
        self, guide: Network | None, student: SegmentationModel, recipe: Recipe, things: Sequence[bool]
    ) -> None:
        self.guide, self.recipe, self.things = guide, recipe, things
        self.average = copy.deepcopy(student).requires_grad_(False).eval()
        self.thresholds = ClassThresholds(recipe.distill, len(things)).to(next(student.parameters()).device)

    def is_guide(self, step: int) -> bool:
        """Whether the guide labels at `step` (0-based)."""
        return step < self.recipe.distill.burn_in_steps

    def follow(self, student: SegmentationModel, step: int) -> None:
        """Take over the student at the end of burn-in, then average; call it before each step."""
        if not self.is_guide(step):
            self.guide = None  # its memory is free for the rest of the run
            since = step - self.recipe.distill.burn_in_steps
            alone = step >= self.recipe.distill.steps - self.recipe.distill.final_steps
            if not since or alone or not self.thresholds.frozen:  # nobody is held without pseudo-labels
                update_ema(self.average, student, self._decay(since))

    def _decay(self, since: int) -> float:
        """Of the average, `since` steps after it became the student's copy."""
        rule = self.recipe.distill
        ramp = 1 - 1 / (since + 1) if rule.ema_ramp else 1.0
        return min(rule.ema_decay, ramp) if since else 0.0

    def label(self, batch: Batch, step: int, *, hear: bool = True) -> list[Targets]:
        """Pseudo-labels for the weak views of a batch on its device."""
        guide = self.guide if self.is_guide(step) else None
        model, recipe = (guide.model, guide.recipe) if guide else (self.average, self.recipe)
        return self.find(model, batch, recipe.softmax_classes, hear=hear)

    def agreement(self, student: SegmentationModel, batch: Batch, step: int) -> float:
        """How far the student, asked as the teacher is, gives the same pseudo-labels for the weak views."""
        student.eval()
        own = self.find(student, batch, self.recipe.softmax_classes)
        return agreement(self.label(batch, step, hear=False), own)  # the step sets the student to train

    def find(
        self, model: SegmentationModel, batch: Batch, softmax: bool, *, hear: bool = False
    ) -> list[Targets]:
        """What the rule makes of a network's answer; hear: the thresholds take note of it."""
        found = all_looks(forward(model, batch, self.recipe).final, model, batch, self.recipe, softmax)
        if hear:
            self.thresholds.hear(*class_scores(found.logits, softmax))
        values = self.thresholds.values
        if self.recipe.task == "instance":
            return pseudo_targets(found, self.recipe.distill, softmax, values)
        return pseudo_maps(found, self.recipe, self.things, softmax, values)


def load_guide(file: Path, dataset: Dataset, device: torch.device) -> Network:
    """The pretrained teacher. Raises CheckpointError unless its classes are the data's, in the same order."""
    guide = load_network(file, device)
    if guide.classes != dataset.classes:
        raise CheckpointError(
            f"the teacher knows {counted(len(guide.classes), 'class')} ({_few(guide.classes)}), "
            f"the data has {len(dataset.classes)} ({_few(dataset.classes)})",
            file,
            "pretrain a teacher on this data: gdseg pretrain",
        )
    return guide


def build_student(
    recipe: Recipe, num_classes: int, guide: Network | None, *, load_weights: bool
) -> SegmentationModel:
    """A student with its backbone's weights, or with the teacher's if the recipe says so and it is there.

    Raises CheckpointError when it shall start from a teacher of another architecture.
    """
    if guide is None or recipe.distill.student_init == "backbone":
        return build_model(recipe, num_classes, load_weights=load_weights)
    student = build_model(recipe, num_classes, load_weights=False)
    try:
        student.load_state_dict(guide.model.state_dict())
    except RuntimeError as error:
        what = "distill.student_init is teacher, but the teacher has another architecture"
        raise CheckpointError(what, hint="use distill.student_init=backbone") from error
    return student


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", .." if len(names) > 4 else "")
