"""`gdseg distill`: guided distillation (arXiv 2308.02668 §3.2).

A frozen, pretrained teacher supplies pseudo-labels from step 0 while the student burns in; at
`burn_in_steps` the teacher becomes a copy of the student, and from then on its moving average.
Read it top to bottom; `pseudo.py` has the rule for pseudo-labels, `engine.py` the step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from gdseg.data.dataset import Dataset, unlabelled_pool
from gdseg.data.loader import train_batches
from gdseg.errors import CheckpointError
from gdseg.models.checkpoint import Network, load_network
from gdseg.models.model import SegmentationModel, build_model
from gdseg.recipe import Distill, Recipe
from gdseg.structures import Batch, Record, Targets
from gdseg.train.ema import update_ema
from gdseg.train.engine import Learner, Part, infer, seed_step
from gdseg.train.pseudo import pseudo_targets
from gdseg.train.session import Session
from gdseg.train.start import objects_per_image, open_data, record_run


def distill(
    recipe: Recipe,
    run: Path,
    teacher_file: Path,
    device: torch.device,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, dict[str, float]]:
    """Distil a student in `run` from the network in `teacher_file`; return the last metrics by role.

    Raises DataError, CheckpointError, DivergedError, MachineError, InterruptedRun (after saving).
    """
    data = open_data(recipe, run if resume else None)
    rule, train, classes = recipe.distill, recipe.train, len(data.dataset.classes)
    unlabelled = unlabelled_pool(data.dataset.train, data.split, recipe.data)
    guide = load_teacher(teacher_file, data.dataset, device)
    seed_step(recipe.seed, 0)
    student = build_student(recipe, classes, guide, load_weights=not resume).to(device)
    learner = Learner(student, recipe, classes, rule.steps, device)

    # Two networks follow each other as teacher: the frozen guide, then the student's average.
    average = copy.deepcopy(student).eval()
    session = Session(run, recipe, data.dataset, data.split.sha256, learner, rule.steps, quiet)
    state = {"student": student, "teacher": average}
    if resume:
        session.resume(state)
    alarm = Alarm(rule, objects_per_image(data.labelled))
    facts = {"unlabelled": len(unlabelled), "teacher": str(teacher_file), "burn_in_steps": rule.burn_in_steps}
    record_run(run, recipe, "distill", data, device, **facts)
    streams = _streams(recipe, data.labelled, unlabelled, classes, session.start_step)
    with session:
        session.log.say(
            f"distill: {len(data.labelled)} labelled and {len(unlabelled)} unlabelled images, "
            f"{rule.steps} steps, {run}"
        )
        _warn_other_labels(session, guide, data.split.sha256)
        for step, (labelled, weak) in enumerate(streams, session.start_step):
            seed_step(recipe.seed, step)
            labelled, weak = labelled.to(device), weak.to(device)
            if step == rule.burn_in_steps:
                update_ema(average, student, 0.0)
            elif step > rule.burn_in_steps:
                update_ema(average, student, rule.ema_decay)
            burning_in = step < rule.burn_in_steps
            teacher, of = (guide.model, guide.recipe) if burning_in else (average, recipe)
            found = infer(teacher, weak.images, weak.sizes, learner.amp_dtype).final
            pseudo = pseudo_targets(found, rule, of.softmax_classes)

            targets = cast(list[Targets], labelled.targets)
            strong = weak.images if weak.strong is None else weak.strong
            losses = learner.step(step, [
                Part(labelled.images, labelled.sizes, targets, labelled.image_ids),
                Part(strong, weak.sizes, pseudo, weak.image_ids,
                     rule.unlabelled_weight, "_unlabelled", rule.denoising),
            ])  # fmt: skip
            losses.update(pseudo_statistics(pseudo))

            done = step + 1
            means = session.log_step(done, len(labelled) + len(weak), losses)
            if means and (warning := alarm.check(done, means["pseudo_per_image"])):
                session.log.say(warning)
            roles = {"student": student} if burning_in else state
            if session.due(done, train.eval_every):
                session.evaluate(done, roles)
            if session.due(done, train.save_every) or session.stop_signal:
                session.save(done, roles, state)
            if session.stop_signal and done < rule.steps:
                session.leave(done)
    return session.scores


def load_teacher(file: Path, dataset: Dataset, device: torch.device) -> Network:
    """The frozen guide. Raises CheckpointError unless its classes are the data's, in the same order."""
    guide = load_network(file, device)
    if guide.classes != dataset.classes:
        raise CheckpointError(
            f"the teacher knows {len(guide.classes)} classes ({_few(guide.classes)}), "
            f"the data has {len(dataset.classes)} ({_few(dataset.classes)})",
            file,
            "pretrain a teacher on this data: gdseg pretrain",
        )
    guide.model.requires_grad_(False)
    return guide


def build_student(
    recipe: Recipe, num_classes: int, guide: Network, *, load_weights: bool
) -> SegmentationModel:
    """A student with its backbone's weights, or the teacher's weights if the recipe says so.

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


def pseudo_statistics(pseudo: list[Targets]) -> dict[str, float]:
    """Pseudo-labels an image and their mean score, for the log; the mean is left out when there are none."""
    statistics = {"pseudo_per_image": sum(len(targets) for targets in pseudo) / len(pseudo)}
    scores = [t.scores for t in pseudo if t.scores is not None and len(t)]
    if scores:
        statistics["pseudo_score"] = float(torch.cat(scores).mean())
    return statistics


class Alarm:
    """Warns, once for each way, when pseudo-labels fall to nothing or explode against the labelled images."""

    def __init__(self, rule: Distill, labelled_per_image: float) -> None:
        self.low, self.high = rule.alarm_low * labelled_per_image, rule.alarm_high * labelled_per_image
        self.expected = labelled_per_image
        self._said: set[str] = set()

    def check(self, step: int, per_image: float) -> str | None:
        """A sentence when `per_image` (mean over the last log window) is out of bounds, else None."""
        way = "few" if per_image < self.low else "many" if per_image > self.high else ""
        if not way or way in self._said:
            self._said.discard({"few": "many", "many": "few"}.get(way, ""))
            return None
        self._said.add(way)
        cure = "lower distill.class_threshold" if way == "few" else "raise distill.class_threshold"
        return (
            f"warning: step {step}: {per_image:.2f} pseudo-labels an image, the labelled images hold "
            f"{self.expected:.2f}; the teacher may be collapsing ({cure}, or train the teacher longer)"
        )


def _streams(
    recipe: Recipe, labelled: list[Record], unlabelled: list[Record], num_classes: int, start_step: int
) -> Iterator[tuple[Batch, Batch]]:
    """Labelled batches (weak views only) beside unlabelled ones (weak and strong views)."""
    rule = recipe.distill
    common = {"seed": recipe.seed, "start_step": start_step, "steps": rule.steps, "num_classes": num_classes}
    return zip(
        train_batches(labelled, recipe, batch_size=recipe.train.batch_size, strong=False, **common),
        train_batches(unlabelled, recipe, batch_size=rule.unlabelled_batch_size, strong=True, **common),
        strict=True,
    )


def _warn_other_labels(session: Session, guide: Network, split_sha256: str) -> None:
    if guide.split_sha256 and guide.split_sha256 != split_sha256:
        session.log.say(
            "warning: the teacher was trained on other labelled images than this run's; "
            "a teacher that has seen more labels makes the comparison unfair"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", .." if len(names) > 4 else "")
