"""`gdseg distill`: guided distillation (arXiv 2308.02668 §3.2).

A frozen, pretrained teacher supplies pseudo-labels from step 0 while the student burns in; at
`burn_in_steps` the teacher becomes a copy of the student, and from then on its moving average
(`teacher.py`). Read it top to bottom; `pseudo.py` has the rule for pseudo-labels, `watch.py`
what is said of them, `engine.py` the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast

import torch

from gdseg.data.dataset import unlabelled_pool
from gdseg.data.loader import train_batches
from gdseg.data.order import repeat_factors
from gdseg.errors import DataError
from gdseg.files import file_sha256
from gdseg.models.checkpoint import Network
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe
from gdseg.runs import read_run, teacher_of
from gdseg.structures import Batch, Record, Targets
from gdseg.train.copy_paste import as_trained, paste_labelled, paste_unlabelled
from gdseg.train.counts import settle
from gdseg.train.engine import Learner, Part, labelled_part, seed_step, unlabelled_part
from gdseg.train.features import FeatureLoss
from gdseg.train.mix import mix_unlabelled
from gdseg.train.session import Session
from gdseg.train.start import Start, advice, images_sha256, open_data, recorded_run, validation_left_out
from gdseg.train.teacher import Teacher, build_student, load_guide
from gdseg.train.watch import Watch, pseudo_statistics
from gdseg.words import counted


def distill(
    recipe: Recipe,
    run: Path,
    teacher_file: Path | None,
    device: torch.device,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    again: str = "",
) -> dict[str, dict[str, float]]:
    """Distil a student in `run` from the network in `teacher_file`; return the last metrics by role.

    teacher_file: None for that of the run that is resumed, which is needed during burn-in alone.
    Raises DataError, CheckpointError, DivergedError, MachineError, InterruptedRun (after saving).
    again: what these advise, when it is not this verb's own --resume or --overwrite.
    """
    data = open_data(recipe, run if resume else None)
    rule, classes, split = recipe.distill, len(data.dataset.classes), data.split.sha256
    unlabelled, copies, about = _unlabelled(recipe, data, run if resume else None)
    recipe, student, teacher = _networks(recipe, data, teacher_file, device, resume=resume)
    learner = _learner(student, recipe, data.dataset.things, device)

    session = Session("distill", run, recipe, data.dataset, split, learner, rule.steps, quiet, again)
    both = {"student": student, "teacher": teacher.average}
    state = {**both, "thresholds": teacher.thresholds}

    def roles(step: int) -> dict[str, SegmentationModel]:
        return {"student": student} if teacher.is_guide(step) else both

    if resume:
        session.resume(state)
        if teacher.is_guide(session.start_step) and teacher.guide is None:
            teacher.guide = load_guide(teacher_of(run), data.dataset, device)
    facts = {**about, **_guided_by(run, teacher_file), "burn_in_steps": rule.burn_in_steps}
    watch = Watch(rule, teacher.thresholds, recipe.task)
    streams = _streams(recipe, data.labelled, unlabelled, classes, session.start_step)
    often = _often(recipe, data.labelled, classes)
    record = recorded_run(run, recipe, "distill", data, device, resume=resume, overwrite=overwrite, **facts)
    with record, session:
        _announce(session, len(data.labelled), len(unlabelled), copies, teacher.guide)
        session.catch_up(roles(session.start_step - 1), state)
        for step, (labelled, weak) in enumerate(streams, session.start_step):
            seed_step(recipe.seed, step)
            labelled, weak = labelled.to(device), None if weak is None else weak.to(device)
            teacher.follow(student, step)
            parts, said = _parts(labelled, weak, teacher, recipe, step, often)
            if rule.alarm_agreement and weak and session.due(step + 1, recipe.train.log_every):
                said["pseudo_agreement"] = teacher.agreement(student, weak, step)
            losses = {**learner.step(step, parts), **said}
            done = step + 1
            means = session.log_step(done, len(labelled) + len(weak or ()), losses)
            kept = session.due(done, recipe.train.save_every) or session.due(done, recipe.train.eval_every)
            session.tell(done, watch.check(done, means), watch.classes() if kept else {})
            session.close_step(done, roles(step), state)
    return session.scores


def _unlabelled(
    recipe: Recipe, data: Start, resumed: Path | None
) -> tuple[list[Record], int, dict[str, Any]]:
    """The unlabelled stream's images, how many equal validation images and are left out, and facts.

    Raises DataError where a run would go on with others than it began with.
    """
    pool, copies = unlabelled_pool(data.dataset.train, data.split, recipe.data, data.dataset.val)
    own = {record.path for record in data.dataset.train}
    others = [record for record in pool if record.path not in own]
    about = {"unlabelled": len(pool), "unlabelled_sha256": images_sha256(others) if others else None}
    before = read_run(resumed) if resumed else {}
    if any(before.get(key, value) != value for key, value in about.items()):
        count = before.get("unlabelled")
        what = f"there are {len(pool)} unlabelled images now, the run began with {count}"
        if count == len(pool):
            what = "the names or sizes of the unlabelled images are not those the run began with"
        raise DataError(what, "data.unlabelled", "bring the same images back, or start a new run")
    return pool, copies, about


def _networks(
    recipe: Recipe, data: Start, teacher_file: Path | None, device: torch.device, *, resume: bool
) -> tuple[Recipe, SegmentationModel, Teacher]:
    """The recipe with its numbers chosen, the student, and the teacher with its guide from the file."""
    guide = load_guide(teacher_file, data.dataset, device) if teacher_file else None
    like = guide.recipe if guide and recipe.distill.student_init == "teacher" else None
    recipe = settle(recipe, data.some_counts(), like)
    seed_step(recipe.seed, 0)
    classes = len(data.dataset.classes)
    student = build_student(recipe, classes, guide, load_weights=not resume).to(device)
    return recipe, student, Teacher(guide, student, recipe, data.dataset.things)


def _learner(
    student: SegmentationModel, recipe: Recipe, things: Sequence[bool], device: torch.device
) -> Learner:
    rule = recipe.distill
    own_lr = replace(recipe, train=replace(recipe.train, lr=recipe.train.lr * rule.lr_factor))
    learner = Learner(student, own_lr, len(things), rule.steps, device, things)
    learner.features = FeatureLoss(recipe, student, device) if rule.feature_backbone else None
    return learner


def _guided_by(run: Path, teacher_file: Path | None) -> dict[str, Any]:
    """What run.json says of the teacher: of `teacher_file`, else what it said before."""
    if teacher_file:
        return {"teacher": str(teacher_file.resolve()), "teacher_sha256": file_sha256(teacher_file)}
    before = read_run(run)
    return {key: before.get(key) for key in ("teacher", "teacher_sha256")}


def _parts(
    labelled: Batch,
    weak: Batch | None,
    teacher: Teacher,
    recipe: Recipe,
    step: int,
    often: Mapping[int | str, float],
) -> tuple[list[Part], dict[str, float]]:
    """What a step learns from, and what the log says of its pseudo-labels; without `weak` labels alone."""
    rule = recipe.distill
    if weak is None:
        return [labelled_part(paste_labelled(labelled, recipe, step))], {}
    pseudo = teacher.label(weak, step)
    truth = cast(list[Targets], labelled.targets)
    teacher.thresholds.count(truth, pseudo, [often[image_id] for image_id in labelled.image_ids])
    mixed, targets = mix_unlabelled(weak, pseudo, recipe, teacher.things, step)
    mixed, targets = paste_unlabelled(mixed, targets, labelled, recipe, step)
    targets = as_trained(targets, mixed, recipe)
    share = min(1.0, (step + 1) / max(rule.unlabelled_ramp_steps, 1))
    parts = [
        labelled_part(paste_labelled(labelled, recipe, step)),
        unlabelled_part(mixed, targets, rule, share),
    ]
    return parts, pseudo_statistics(pseudo)


def _streams(
    recipe: Recipe, labelled: list[Record], unlabelled: list[Record], num_classes: int, start_step: int
) -> Iterator[tuple[Batch, Batch | None]]:
    """Labelled batches (weak views only) beside unlabelled ones (weak and strong views; none at the end)."""
    rule = recipe.distill
    recipe = replace(recipe, data=replace(recipe.data, repeat_threshold=_repeat_threshold(recipe)))
    common = {"seed": recipe.seed, "start_step": start_step, "num_classes": num_classes}
    sizes, both = (recipe.train.batch_size, rule.unlabelled_batch_size), rule.steps - rule.final_steps
    return zip(
        train_batches(labelled, recipe, batch_size=sizes[0], steps=rule.steps, strong=False, **common),
        chain(
            train_batches(unlabelled, recipe, batch_size=sizes[1], steps=both, strong=True, **common),
            repeat(None),
        ),
        strict=False,
    )


def _often(recipe: Recipe, labelled: list[Record], num_classes: int) -> dict[int | str, float]:
    """By image id how often an epoch shows a labelled image."""
    factors = repeat_factors(labelled, _repeat_threshold(recipe), num_classes)
    return {record.image_id: float(f) for record, f in zip(labelled, factors, strict=True)}


def _repeat_threshold(recipe: Recipe) -> float:
    own = recipe.distill.repeat_threshold
    return recipe.data.repeat_threshold if own is None else own


def _announce(session: Session, labelled: int, unlabelled: int, copies: int, guide: Network | None) -> None:
    rule, say = session.recipe.distill, session.log.say
    images = f"{labelled} labelled and {counted(unlabelled, 'unlabelled image')}"
    say(f"distill: {images}, {counted(rule.steps, 'step')}, {session.run}")
    say(validation_left_out(copies))
    if not session.start_step:
        say(advice(labelled, session.recipe, "distill"))
    if unlabelled <= labelled and session.recipe.data.unlabelled_has_labelled:
        say("warning: all unlabelled images are the labelled ones; name others with --unlabelled DIR")
    if rule.burn_in_steps >= rule.steps:
        say("warning: burn-in does not end within these steps, the teacher stays as it is")
    if guide and guide.split_sha256 not in ("", session.split_sha256):
        say("warning: the teacher was trained on other labelled images than this run's")
