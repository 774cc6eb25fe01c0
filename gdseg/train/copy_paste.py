"""Copy-paste within a step: objects of labelled images in front of other images (arXiv 2012.07177 §3).

The loader has scaled, cropped and flipped both images; objects keep their place on the canvas. What they
cover leaves the masks behind them. Called by pretrain.py, distill.py and mix.py; which objects is a function
of (seed, step). Letters: N instances, H W pixels, h w cells of `distill.mask_stride` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from gdseg.data.order import rng_for
from gdseg.losses.boxes import cxcywh_to_xyxy, masks_to_boxes_cxcywh, xyxy_to_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets

_OBJECTS = 0.5  # share of an image's objects that are pasted
LEFT = 0.1  # a covered or cut object of which less is left is no object to learn


class Views(NamedTuple):
    """Images [B, C, H, W], the targets of each, and their sizes (height, width) without the padding."""

    images: Tensor
    targets: Sequence[Targets]
    sizes: Sequence[tuple[int, int]]


def paste_labelled(batch: Batch, recipe: Recipe, step: int) -> Batch:
    """A labelled batch in which images got objects of each other, `augment.copy_paste` of them."""
    if not recipe.augment.copy_paste:
        return batch
    own = _labelled(batch, recipe)
    rng = rng_for(recipe.seed, "copy-paste", "labelled", step)
    images, mixed = paste(own, own, recipe.augment.copy_paste, rng)
    return replace(batch, images=images, targets=[*as_trained(mixed, batch, recipe)])


def paste_unlabelled(
    batch: Batch, pseudo: list[Targets], labelled: Batch, recipe: Recipe, step: int
) -> tuple[Batch, list[Targets]]:
    """Strong views and pseudo-labels with objects of a labelled batch, `distill.copy_paste` of the images."""
    rng = rng_for(recipe.seed, "copy-paste", "unlabelled", step)
    strong = batch.images if batch.strong is None else batch.strong
    onto = Views(strong, pseudo, batch.sizes)
    strong, pseudo = paste(onto, _labelled(labelled, recipe), recipe.distill.copy_paste, rng)
    return replace(batch, strong=strong), pseudo


def paste(onto: Views, source: Views, share: float, rng: np.random.Generator) -> tuple[Tensor, list[Targets]]:
    """Images and targets of `onto` with some objects of the sources in front of `share` of them.

    Boxes are shares of the canvas. Masks of the sources may be coarser than their pixels. Nothing is pasted
    into the image it is from (where `source` is `onto`), nor into padding, which the model does not see.
    """
    own = int(source is onto)
    others = len(source.targets) - own
    if not share or not others:
        return onto.images, list(onto.targets)
    pasted, mixed = onto.images.clone(), list(onto.targets)
    for i, below in enumerate(onto.targets):
        wanted = rng.random() < share
        j = (own * (i + 1) + int(rng.integers(others))) % len(source.targets)
        picked = torch.from_numpy(rng.random(len(source.targets[j])) < _OBJECTS).to(pasted.device)
        if not wanted:
            continue
        height, width = (min(a, b) for a, b in zip(onto.sizes[i], source.sizes[j], strict=True))
        objects = _moved(source.targets[j].select(picked), source.images, onto.images, (height, width))
        cover = objects.masks[:, :height, :width].any(0)
        part = pasted[i, :, :height, :width]
        part.copy_(torch.where(cover, source.images[j, :, :height, :width].to(part.dtype), part))
        mixed[i] = _in_front(objects, below)
    return pasted, mixed


def as_trained(targets: Sequence[Targets], batch: Batch, recipe: Recipe) -> list[Targets]:
    """Targets whose boxes are shares of the canvas, with boxes as `loss.boxes_relative_to` has them."""
    if recipe.loss.boxes_relative_to == "padded":
        return list(targets)
    height, width = batch.images.shape[-2:]
    found = []
    for target, (h, w) in zip(targets, batch.sizes, strict=True):
        scale = target.boxes_cxcywh.new_tensor([width / w, height / h] * 2)
        corners = (cxcywh_to_xyxy(target.boxes_cxcywh) * scale).clamp(0, 1)
        found.append(replace(target, boxes_cxcywh=xyxy_to_cxcywh(corners)))
    return found


def _labelled(batch: Batch, recipe: Recipe) -> Views:
    """A labelled batch, with boxes that are shares of the canvas (of the image: as the loader made them)."""
    targets = cast(list[Targets], batch.targets)
    if recipe.loss.boxes_relative_to == "image":
        height, width = batch.images.shape[-2:]
        shares = [[w / width, h / height] * 2 for h, w in batch.sizes]
        targets = [
            replace(t, boxes_cxcywh=t.boxes_cxcywh * t.boxes_cxcywh.new_tensor(share))
            for t, share in zip(targets, shares, strict=True)
        ]
    return Views(batch.images, targets, batch.sizes)


def _moved(targets: Targets, source: Tensor, onto: Tensor, size: tuple[int, int]) -> Targets:
    """Targets of the canvas `source` at the pixels of the canvas `onto`, cut to `size`; whole: own boxes."""
    masks, ignore = (targets.masks.new_zeros(n, *onto.shape[-2:]) for n in (len(targets), 1))
    height, width = size
    before = _at_pixels(targets.masks, source)
    masks[:, :height, :width] = before[:, :height, :width]
    whole = masks.flatten(1).sum(1) == before.flatten(1).sum(1)
    if targets.ignore is not None:
        ignore[:, :height, :width] = _at_pixels(targets.ignore[None], source)[:, :height, :width]
    scale = [a / b for a, b in zip(source.shape[-2:], onto.shape[-2:], strict=True)]
    own = targets.boxes_cxcywh * targets.boxes_cxcywh.new_tensor([scale[1], scale[0]] * 2)
    boxes = torch.where(whole[:, None], own, masks_to_boxes_cxcywh(masks))
    kept = None if targets.ignore is None else ignore[0]
    return replace(targets, masks=masks, boxes_cxcywh=boxes, ignore=kept)


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
    ignore = None if below.ignore is None else below.ignore & ~cover
    if above.ignore is not None:
        unsure = above.ignore[stride // 2 :: stride, stride // 2 :: stride] & cover
        ignore = unsure if ignore is None else ignore | unsure
    joined = Targets(
        labels=torch.cat((above.labels, below.labels)),
        masks=torch.cat((front, behind)),
        boxes_cxcywh=torch.cat((above.boxes_cxcywh, boxes)),
        weights=torch.cat((above.weights, below.weights)),
        ignore=ignore,
        scores=None if below.scores is None else torch.cat((_sure(above), below.scores)),
        known=below.known,
    )
    return objects_only(joined, torch.cat((front.flatten(1).any(1), ~hidden | (left >= LEFT * area))))


def objects_only(targets: Targets, keep: Tensor) -> Targets:
    """Those that `keep` (bool [N]) names; what is seen of the others is ignored, for it is not background."""
    remains = targets.masks[~keep].any(0) & ~targets.masks[keep].any(0)
    if remains.any():
        ignore = remains if targets.ignore is None else targets.ignore | remains
        targets = replace(targets, ignore=ignore)
    return targets.select(keep)


def _sure(targets: Targets) -> Tensor:
    """Scores, or weights of labels by hand."""
    return targets.weights if targets.scores is None else targets.scores
