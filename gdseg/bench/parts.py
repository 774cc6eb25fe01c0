"""`gdseg bench model|train|data`: how long the parts take on this machine, beside each other in the same run.

Machines are shared and noisy, so what counts are ratios; each figure is the median of several calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch

from gdseg.data.dataset import labelled_records, open_dataset
from gdseg.data.loader import train_batches
from gdseg.data.split import choose_split
from gdseg.infer.run import forward
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Record
from gdseg.train.counts import object_counts, settle
from gdseg.train.engine import Learner, labelled_part, seed_step
from gdseg.words import counted

PARTS = ("model", "train", "data")  # and "op": operator.py


def bench(part: str, recipe: Recipe, device: torch.device, repeats: int = 5) -> list[tuple[str, float]]:
    """(what, median seconds) rows of one part: "model", "train" or "data"."""
    dataset = open_dataset(recipe.data, task=recipe.task)
    num_classes = len(dataset.classes)
    records = labelled_records(dataset.train, choose_split(dataset.train, recipe.data, recipe.seed))
    if part == "data":
        load = partial(first_batch, records, recipe, num_classes)
        return [("load and augment a batch", _median(load, repeats, device))]
    batch = first_batch(records, recipe, num_classes).to(device)
    recipe = settle(recipe, object_counts(records, recipe.task))
    model = build_model(recipe, num_classes, load_weights=False).to(device)
    learner = Learner(model, recipe, num_classes, 1000, device, dataset.things)
    if part == "model":
        model.eval()
        whole = _median(lambda: forward(model, batch, recipe), repeats, device)
        backbone = _median(lambda: _backbone(model, batch), repeats, device)
        return [("forward", whole), ("backbone alone", backbone)]
    parts = [labelled_part(batch)]
    seed_step(recipe.seed, 0)
    return [
        (
            f"training step of {counted(len(batch), 'image')}",
            _median(lambda: learner.step(0, parts), repeats, device),
        )
    ]


@torch.no_grad()
def _backbone(model: torch.nn.Module, batch: Batch) -> None:
    cast(torch.nn.Module, model.backbone)(batch.images.float())


def first_batch(records: Sequence[Record], recipe: Recipe, num_classes: int) -> Batch:
    """The first batch of a training run on the records."""
    batches = train_batches(
        records,
        recipe,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        start_step=0,
        steps=1,
        strong=True,
        num_classes=num_classes,
    )
    return next(iter(batches))


def _median(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(repeats + 1):  # the first call warms up and is left out
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[repeats // 2]
