"""Strong views mixed among themselves, with their pseudo-labels (`distill.paste_pseudo`, `distill.cutmix`).

Pasting: pseudo-objects of another image come in front (arXiv 2012.07177 §3 with pseudo-labels; with segments
of panoptic and semantic labels ClassMix, arXiv 2007.07936 §3). CutMix: a rectangle of half the image's area
comes from another one, objects cut at its edges (arXiv 1906.01916 §3.3). The teacher has labelled the
unmixed weak views. Called by distill.py; what is mixed is a function of (seed, step). Letters: N instances,
H W pixels, h w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gdseg.data.order import rng_for
from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets
from gdseg.train.copy_paste import LEFT, Views, objects_only, paste

_CELL = 4  # pixels: rectangles end between the cells of pseudo-masks
_HALF = 0.5  # share of the image in a rectangle


def mix_unlabelled(
    batch: Batch, pseudo: list[Targets], recipe: Recipe, things: Sequence[bool], step: int
) -> tuple[Batch, list[Targets]]:
    """Strong views and pseudo-labels of a batch after both ways of mixing; things: of each class."""
    rule = recipe.distill
    strong = batch.images if batch.strong is None else batch.strong
    if rule.paste_pseudo and len(pseudo) > 1:
        rng = rng_for(recipe.seed, "paste-pseudo", step)
        views = Views(strong, pseudo, batch.sizes)
        strong, pseudo = paste(views, views, rule.paste_pseudo, rng)
    if rule.cutmix and len(pseudo) > 1:
        views = Views(strong, pseudo, batch.sizes)
        strong, pseudo = _cutmix(views, rule.cutmix, rng_for(recipe.seed, "cutmix", step))
    if recipe.task != "instance":
        stuff = torch.tensor([recipe.task == "semantic" or not thing for thing in things])
        pseudo = [_merged(targets, stuff.to(targets.labels.device)) for targets in pseudo]
    return replace(batch, strong=strong), pseudo


def _cutmix(views: Views, share: float, rng: np.random.Generator) -> tuple[Tensor, list[Targets]]:
    images, targets, sizes = views
    mixed, found = images.clone(), list(targets)
    for i, own in enumerate(targets):
        wanted, shift = rng.random() < share, int(rng.integers(1, len(targets)))
        box = _rectangle((images.shape[-2], images.shape[-1]), rng)
        if not wanted:
            continue
        j = (i + shift) % len(targets)
        box = _within(_within(box, sizes[i]), sizes[j])
        mixed[i, :, box[0], box[1]] = images[j, :, box[0], box[1]]
        found[i] = _joined(_inside(targets[j], box, images), _outside(own, box, images))
    return mixed, found


def _rectangle(size: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of half the area, at least half of each side, on the grid of cells."""
    tall = rng.uniform(_HALF, 1.0)
    spans = []
    for length, part in zip(size, (tall, _HALF / tall), strict=True):
        cells = length // _CELL
        taken = max(1, round(part * cells))
        first = int(rng.integers(cells - taken + 1))
        spans.append(slice(first * _CELL, (first + taken) * _CELL))
    return spans[0], spans[1]


def _within(box: tuple[slice, slice], size: tuple[int, int]) -> tuple[slice, slice]:
    """The part of a rectangle in an image's whole cells: its padding is neither given nor taken."""
    rows, columns = (
        slice(min(part.start, end), min(part.stop, end))
        for part, end in zip(box, (length // _CELL * _CELL for length in size), strict=True)
    )
    return rows, columns


def _window(masks: Tensor, box: tuple[slice, slice], images: Tensor) -> Tensor:
    """The rectangle on the grid of masks [N, h, w] or of a map [h, w]: bool [h, w]."""
    stride = images.shape[-1] // masks.shape[-1]
    window = torch.zeros(masks.shape[-2:], dtype=torch.bool, device=masks.device)
    rows, columns = (slice(part.start // stride, part.stop // stride) for part in box)
    window[rows, columns] = True
    return window


def _inside(targets: Targets, box: tuple[slice, slice], images: Tensor) -> Targets:
    return _cut(targets, _window(targets.masks, box, images))


def _outside(targets: Targets, box: tuple[slice, slice], images: Tensor) -> Targets:
    return _cut(targets, ~_window(targets.masks, box, images))


def _cut(targets: Targets, window: Tensor) -> Targets:
    """What is left of targets within a window [h, w]; objects of which too little is left are ignored."""
    masks = targets.masks & window
    area, left = (m.flatten(1).sum(1) for m in (targets.masks, masks))
    boxes = torch.where((left < area)[:, None], masks_to_boxes_cxcywh(masks), targets.boxes_cxcywh)
    ignore = None if targets.ignore is None else targets.ignore & window
    cut = replace(targets, masks=masks, boxes_cxcywh=boxes, ignore=ignore)
    return objects_only(cut, (left > 0) & (left >= LEFT * area))


def _joined(a: Targets, b: Targets) -> Targets:
    """Both, of the same canvas and from the same rule (scores of both or of none)."""
    ignore = a.ignore if b.ignore is None else b.ignore if a.ignore is None else a.ignore | b.ignore
    scores = None if a.scores is None or b.scores is None else torch.cat((a.scores, b.scores))
    return Targets(
        labels=torch.cat((a.labels, b.labels)),
        masks=torch.cat((a.masks, b.masks)),
        boxes_cxcywh=torch.cat((a.boxes_cxcywh, b.boxes_cxcywh)),
        weights=torch.cat((a.weights, b.weights)),
        ignore=ignore,
        scores=scores,
    )


def _merged(targets: Targets, stuff: Tensor) -> Targets:
    """Masks of one stuff class made one, as sure as its surest part; stuff: bool [C]."""
    labels, count = torch.unique(targets.labels, return_counts=True)
    for label in labels[(count > 1) & stuff[labels]].tolist():
        same = targets.labels == label
        first = int(same.nonzero()[0, 0])
        whole = targets.masks[same].any(0)
        targets = replace(targets, masks=targets.masks.clone(), weights=targets.weights.clone())
        targets.masks[first] = whole
        targets.weights[first] = targets.weights[same].max()
        boxes = targets.boxes_cxcywh.clone()
        boxes[first] = masks_to_boxes_cxcywh(whole[None])[0]
        keep = ~same
        keep[first] = True
        targets = replace(targets, boxes_cxcywh=boxes).select(keep)
    return targets
