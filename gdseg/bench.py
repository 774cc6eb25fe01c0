"""`gdseg bench`: how long the parts take on this machine, always beside their reference in the same run.

Machines are shared and noisy, so what counts are ratios; each figure is the median of several calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch

from gdseg.data.dataset import labelled_records, open_dataset
from gdseg.data.loader import train_batches
from gdseg.data.split import choose_split
from gdseg.eval.run import forward
from gdseg.models.deform_attn import kernel_in_use, ms_deform_attn, ms_deform_attn_reference
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.structures import Batch
from gdseg.train.engine import Learner, labelled_part, seed_step

PARTS = ("op", "model", "train", "data")


def bench(part: str, recipe: Recipe, device: torch.device, repeats: int = 5) -> list[tuple[str, float]]:
    """(what, median seconds) rows of one part: "op", "model", "train" or "data"."""
    if part == "op":
        return _bench_op(device, repeats)
    batch, num_classes = _first_batch(recipe)
    if part == "data":
        return [("load and augment a batch", _median(lambda: _first_batch(recipe), repeats, device))]
    batch = batch.to(device)
    model = build_model(recipe, num_classes, load_weights=False).to(device)
    learner = Learner(model, recipe, num_classes, 1000, device)
    if part == "model":
        model.eval()
        whole = _median(lambda: forward(model, batch, recipe), repeats, device)
        backbone = _median(lambda: _backbone(model, batch), repeats, device)
        return [("forward", whole), ("backbone alone", backbone)]
    parts = [labelled_part(batch)]
    seed_step(recipe.seed, 0)
    return [
        (f"training step of {len(batch)} images", _median(lambda: learner.step(0, parts), repeats, device))
    ]


def _bench_op(device: torch.device, repeats: int) -> list[tuple[str, float]]:
    """An encoder layer of a 256 x 352 image: 3 levels, 8 heads of 32 channels, 4 points."""
    shapes = [(32, 44), (16, 22), (8, 11)]
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(1, tokens, 8, 32, device=device, requires_grad=True)
    locations = torch.rand(1, tokens, 8, 3, 4, 2, device=device)
    weights = torch.rand(1, tokens, 8, 3, 4, device=device)
    rows = []
    for name, op in (("reference", ms_deform_attn_reference), (kernel_in_use(), ms_deform_attn)):

        def sample(op: Callable[..., torch.Tensor] = op) -> torch.Tensor:
            return op(value, shapes, locations, weights)

        def learn(op: Callable[..., torch.Tensor] = op) -> None:
            op(value, shapes, locations, weights).sum().backward()  # type: ignore[no-untyped-call]

        rows.append((f"{name}: forward", _median(sample, repeats, device)))
        rows.append((f"{name}: forward and backward", _median(learn, repeats, device)))
    return rows


@torch.no_grad()
def _backbone(model: torch.nn.Module, batch: Batch) -> None:
    cast(torch.nn.Module, model.backbone)(batch.images.float())


def _first_batch(recipe: Recipe) -> tuple[Batch, int]:
    dataset = open_dataset(recipe.data)
    records = labelled_records(dataset.train, choose_split(dataset.train, recipe.data, recipe.seed))
    batches = train_batches(
        records,
        recipe,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        start_step=0,
        steps=1,
        strong=True,
        num_classes=len(dataset.classes),
    )
    return next(iter(batches)), len(dataset.classes)


def _median(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(repeats + 1):  # the first call warms up and is left out
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[repeats // 2]
