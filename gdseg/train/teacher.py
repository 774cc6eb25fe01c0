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
from gdseg.train.pseudo import pseudo_targets
from gdseg.train.pseudo_maps import pseudo_maps


class Teacher:
    """First the frozen `guide`, from step `burn_in_steps` on `average`, the student's moving average."""

    def __init__(
        self,
        guide: Network,
        student: SegmentationModel,
        recipe: Recipe,
        things: Sequence[bool] | None = None,
    ) -> None:
        self.guide: Network | None = guide
        self.recipe = recipe
        self.things = things or guide.things
        self.average = copy.deepcopy(student).requires_grad_(False).eval()

    def is_guide(self, step: int) -> bool:
        """Whether the guide labels at `step` (0-based)."""
        return step < self.recipe.distill.burn_in_steps

    def follow(self, student: SegmentationModel, step: int) -> None:
        """Take over the student at the end of burn-in, then average; call it before each step."""
        if not self.is_guide(step):
            self.guide = None  # its memory is free for the rest of the run
            first = step == self.recipe.distill.burn_in_steps
            update_ema(self.average, student, 0.0 if first else self.recipe.distill.ema_decay)

    def label(self, batch: Batch, step: int) -> list[Targets]:
        """Pseudo-labels for the weak views of a batch on its device."""
        guide = self.guide if self.is_guide(step) else None
        found = forward(guide.model if guide else self.average, batch, self.recipe)
        softmax = (guide.recipe if guide else self.recipe).softmax_classes
        if self.recipe.task == "instance":
            return pseudo_targets(found.final, self.recipe.distill, softmax)
        return pseudo_maps(found.final, self.recipe, self.things, softmax)


def load_guide(file: Path, dataset: Dataset, device: torch.device) -> Network:
    """The pretrained teacher. Raises CheckpointError unless its classes are the data's, in the same order."""
    guide = load_network(file, device)
    if guide.classes != dataset.classes:
        raise CheckpointError(
            f"the teacher knows {len(guide.classes)} classes ({_few(guide.classes)}), "
            f"the data has {len(dataset.classes)} ({_few(dataset.classes)})",
            file,
            "pretrain a teacher on this data: gdseg pretrain",
        )
    return guide


def build_student(
    recipe: Recipe, num_classes: int, guide: Network, *, load_weights: bool
) -> SegmentationModel:
    """A student with its backbone's weights, or with the teacher's if the recipe says so.

    Raises CheckpointError when it shall start from a teacher of another architecture.
    """
    if recipe.distill.student_init == "backbone":
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
