"""`gdseg pretrain`: supervised training of the teacher on the labelled images (arXiv 2308.02668 §3.1).

Read it top to bottom; `engine.py` has the step, `session.py` what surrounds it.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from gdseg.data.loader import train_batches
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.train.copy_paste import paste_labelled
from gdseg.train.counts import settle
from gdseg.train.ema import update_ema
from gdseg.train.engine import Learner, labelled_part, seed_step
from gdseg.train.session import Session
from gdseg.train.start import advice, open_data, recorded_run
from gdseg.words import counted


def pretrain(
    recipe: Recipe,
    run: Path,
    device: torch.device,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    again: str = "",
) -> dict[str, dict[str, float]]:
    """Train a network in `run` and return the last metrics of its role ("teacher").

    Raises DataError, CheckpointError, DivergedError, MachineError, InterruptedRun (after saving).
    again: what these advise, when it is not this verb's own --resume or --overwrite.
    """
    data = open_data(recipe, run if resume else None)
    recipe = settle(recipe, data.some_counts())
    train, classes = recipe.train, len(data.dataset.classes)
    seed_step(recipe.seed, 0)
    model = build_model(recipe, classes, load_weights=not resume).to(device)
    average = copy.deepcopy(model).eval() if train.ema_decay else model
    learner = Learner(model, recipe, classes, train.steps, device, data.dataset.things)

    session = Session(
        "pretrain", run, recipe, data.dataset, data.split.sha256, learner, train.steps, quiet, again
    )
    roles, state = {"teacher": average}, {"model": model, "average": average}
    if resume:
        session.resume(state)
    batches = train_batches(
        data.labelled,
        recipe,
        batch_size=train.batch_size,
        seed=recipe.seed,
        start_step=session.start_step,
        steps=train.steps,
        strong=False,
        num_classes=classes,
    )
    record = recorded_run(run, recipe, "pretrain", data, device, resume=resume, overwrite=overwrite)
    with record, session:
        images = counted(len(data.labelled), "labelled image")
        session.log.say(f"pretrain: {images}, {counted(train.steps, 'step')}, {run}")
        if not session.start_step:
            session.log.say(advice(len(data.labelled), recipe, "pretrain"))
        session.catch_up(roles, state)
        for step, batch in enumerate(batches, session.start_step):
            seed_step(recipe.seed, step)
            batch = paste_labelled(batch.to(device), recipe, step)
            losses = learner.step(step, [labelled_part(batch)])
            if train.ema_decay:
                update_ema(average, model, train.ema_decay)

            done = step + 1
            session.log_step(done, len(batch), losses)
            session.close_step(done, roles, state)
    return session.scores
