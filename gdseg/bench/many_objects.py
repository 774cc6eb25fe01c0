"""`gdseg bench objects`: time and memory of training on, and judging, one image with a thousand objects.

The image is a folder in COCO format like any other, so reading, augmentation, matching, losses, decoding
and scoring are the real ones. Each part runs in a process of its own, since a process's peak never falls.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gdseg.bench.large_image import ImageRow, peak_memory
from gdseg.bench.parts import first_batch
from gdseg.data.dataset import labelled_records, open_dataset
from gdseg.data.order import rng_for
from gdseg.data.shapes import Object, write_part
from gdseg.data.split import choose_split
from gdseg.errors import UsageError
from gdseg.eval.run import find, score_instances
from gdseg.models.model import build_model
from gdseg.recipe import Data, Recipe, settled
from gdseg.train.counts import object_counts, settle
from gdseg.train.engine import Learner, labelled_part, seed_step

ROWS, COLUMNS, CELL = 25, 40, 20  # a thousand discs on 500 x 800 pixels of noise


def bench_objects(recipe: Recipe, device: torch.device) -> list[ImageRow]:
    """One row for the training step, one for the evaluation, of `recipe` on `many_objects`.

    Their counts: objects trained on, objects found (the weights are random). Nothing of `recipe.data` is
    used. Raises UsageError for other tasks than instance.
    """
    if recipe.task != "instance":
        hint = "task=instance, or a recipe of that task"
        raise UsageError(f"bench objects counts instances, the recipe's task is {recipe.task}", "task", hint)
    context, rows = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        many_objects(Path(folder))
        whole = replace(recipe.augment, mode="fixed")  # a crop would lose some
        own = replace(
            recipe,
            data=Data(root=folder, workers=0),
            augment=whole,
            train=replace(recipe.train, batch_size=1),
        )
        for part in ("training step", "evaluation"):
            with context.Pool(1) as pool:
                rows.append(ImageRow(part, *pool.apply(_measure, (own, part, str(device)))))
    return rows


def many_objects(folder: Path) -> None:
    """Write the data set: the same image with its thousand discs to train and to validate on."""
    rng, (height, width) = rng_for(0, "many objects"), (ROWS * CELL, COLUMNS * CELL)
    pixels = rng.integers(0, 80, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    objects = []
    for i in range(ROWS * COLUMNS):
        centre = (i // COLUMNS + 0.5) * CELL, (i % COLUMNS + 0.5) * CELL
        mask = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(0.25, 0.45) * CELL
        pixels[mask] += rng.integers(60, 170, 3).astype(np.uint8)
        objects.append(Object(0, mask))
    for part in ("train", "val"):
        write_part(folder, part, [(pixels, objects)], {})


def _measure(recipe: Recipe, part: str, device_name: str) -> tuple[float, float, int, int, int]:
    device = torch.device(device_name)
    dataset = open_dataset(recipe.data, task=recipe.task)
    records = labelled_records(dataset.train, choose_split(dataset.train, recipe.data, recipe.seed))
    recipe, classes = settle(recipe, object_counts(records, recipe.task)), len(dataset.classes)
    seed_step(recipe.seed, 0)
    model = build_model(recipe, classes, load_weights=False).to(device)
    before, began, worked = peak_memory(), time.perf_counter(), time.process_time()
    if part == "evaluation":
        results = find(model.eval(), dataset, recipe, device)
        score_instances(dataset, results, settled(recipe.postprocess.max_detections))
        count = len(results)
    else:
        learner = Learner(model, recipe, classes, 1, device, dataset.things)
        learner.step(0, [labelled_part(batch := first_batch(records, recipe, classes).to(device))])
        count = sum(len(targets) for targets in batch.targets or () if targets is not None)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    return seconds, worked, before, peak_memory(), count
