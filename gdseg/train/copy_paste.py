"""Copy-paste within a step: objects of labelled images in front of other images (arXiv 2012.07177 §3).

The loader has scaled, cropped and flipped both images; objects keep their place on the canvas. What they
cover leaves the masks behind them. Called by pretrain.py, distill.py and mix.py; which objects is a function
of (seed, step). Letters: N instances, H W pixels, h w cells of `distill.mask_stride` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from gdseg.data.order import rng_for
from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets

_OBJECTS = 0.5  # share of an image's objects that are pasted
LEFT = 0.1  # a covered object of which less is left is gone


def paste_labelled(batch: Batch, recipe: Recipe, step: int) -> Batch:
    """A labelled batch in which images got objects of each other, `augment.copy_paste` of them."""
    targets = cast(list[Targets], batch.targets)
    rng = rng_for(recipe.seed, "copy-paste", "labelled", step)
    images, mixed = paste(batch.images, targets, batch.images, targets, recipe.augment.copy_paste, rng)
    return replace(batch, images=images, targets=[*mixed])


def paste_unlabelled(
    batch: Batch, pseudo: list[Targets], labelled: Batch, recipe: Recipe, step: int
) -> tuple[Batch, list[Targets]]:
    """Strong views and pseudo-labels with objects of a labelled batch, `distill.copy_paste` of the images."""
    targets = cast(list[Targets], labelled.targets)
    rng = rng_for(recipe.seed, "copy-paste", "unlabelled", step)
    strong = batch.images if batch.strong is None else batch.strong
    strong, pseudo = paste(strong, pseudo, labelled.images, targets, recipe.distill.copy_paste, rng)
    return replace(batch, strong=strong), pseudo


def paste(
    images: Tensor,
    targets: Sequence[Targets],
    source_images: Tensor,
    source_targets: Sequence[Targets],
    share: float,
    rng: np.random.Generator,
) -> tuple[Tensor, list[Targets]]:
    """Images [B, C, H, W] and their targets with some objects of the sources in front of `share` of them.

    Masks of the sources may be coarser than their pixels. Nothing is pasted into the image it is from.
    """
    if not share:
        return images, list(targets)
    pasted, mixed = images.clone(), list(targets)
    height, width = (min(a, b) for a, b in zip(images.shape[-2:], source_images.shape[-2:], strict=True))
    for i, below in enumerate(targets):
        wanted, j = rng.random() < share, int(rng.integers(len(source_targets)))
        picked = torch.from_numpy(rng.random(len(source_targets[j])) < _OBJECTS).to(images.device)
        if not wanted or source_targets[j] is below:
            continue
        objects = source_targets[j].select(picked)
        objects.masks = objects.masks.new_zeros(len(objects), *images.shape[-2:])
        whole = _at_pixels(source_targets[j].masks[picked], source_images)
        objects.masks[:, :height, :width] = whole[:, :height, :width]
        cover = objects.masks[:, :height, :width].any(0)
        part = pasted[i, :, :height, :width]
        part.copy_(torch.where(cover, source_images[j, :, :height, :width].to(part.dtype), part))
        mixed[i] = _in_front(objects, below)
    return pasted, mixed


def _at_pixels(masks: Tensor, images: Tensor) -> Tensor:
    """Masks [N, h, w] of coarser cells at the images' pixels [N, H, W]."""
    stride = images.shape[-1] // masks.shape[-1]
    return masks if stride == 1 else masks.repeat_interleave(stride, 1).repeat_interleave(stride, 2)


def _in_front(above: Targets, below: Targets) -> Targets:
    """Both; `above`'s masks [N, H, W] are first brought to the cells [h, w] of `below`'s."""
    stride = above.masks.shape[-1] // below.masks.shape[-1]
    front = above.masks[:, stride // 2 :: stride, stride // 2 :: stride]
    cover = front.any(0)
    behind = below.masks & ~cover
    area, left = (masks.flatten(1).sum(1) for masks in (below.masks, behind))
    hidden = left < area
    boxes = torch.where(hidden[:, None], masks_to_boxes_cxcywh(behind), below.boxes_cxcywh)
    joined = Targets(
        labels=torch.cat((above.labels, below.labels)),
        masks=torch.cat((front, behind)),
        boxes_cxcywh=torch.cat((masks_to_boxes_cxcywh(front), boxes)),
        weights=torch.cat((above.weights, below.weights)),
        ignore=None if below.ignore is None else below.ignore & ~cover,
        scores=None if below.scores is None else torch.cat((_sure(above), below.scores)),
        known=below.known,
    )
    return joined.select(torch.cat((front.flatten(1).any(1), ~hidden | (left >= LEFT * area))))


def _sure(targets: Targets) -> Tensor:
    """Scores, or weights of labels by hand."""
    return targets.weights if targets.scores is None else targets.scores
