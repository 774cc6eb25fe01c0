"""A teacher that also looks at the mirrored image (`distill.teacher_flip`).

Queries of two passes have no common order, so each query of the first is paired with the one of the second
whose mask is most alike. What both say is averaged; what only the first says scores half, which makes the
score a measure of agreement (Data Distillation, arXiv 1712.04440 §4 ensembles so; pairing by masks and the
half are ours). Called by teacher.py and label_images.py. Letters: B batch, Q queries, K class logits, h w
mask at stride 4.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gdseg.infer.run import forward
from gdseg.models.mask_iou import mask_iou
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput

_ALIKE = 0.5  # least mask IoU of a pair


def second_look(
    found: LayerOutput, model: SegmentationModel, batch: Batch, recipe: Recipe, *, softmax: bool
) -> LayerOutput:
    """`found`, the final layer for a batch, averaged with what the network says of the mirrored images.

    softmax: whether its class logits include no-object.
    """
    return agreed(found, forward(model, mirrored(batch), recipe).final, batch, softmax)


def mirrored(batch: Batch) -> Batch:
    """The images flipped left to right, each within its own width; padding stays at the right."""
    images = torch.zeros_like(batch.images)
    for i, (height, width) in enumerate(batch.sizes):
        images[i, :, :height, :width] = batch.images[i, :, :height, :width].flip(-1)
    return replace(batch, images=images)


@torch.no_grad()
def agreed(first: LayerOutput, second: LayerOutput, batch: Batch, softmax: bool) -> LayerOutput:
    """`first` [B, Q, ..] averaged with `second`, the output for `mirrored(batch)`, brought back."""
    assert first.masks is not None
    assert second.masks is not None
    logits, masks, boxes = [], [], []
    tall, full = batch.images.shape[-2:]
    for i, (height, width) in enumerate(batch.sizes):
        back = unflip(second.masks[i].float(), width / full)
        inside = _inside(back, height / tall, width / full)
        pair, alike = _pairs(first.masks[i][:, inside], back[:, inside])
        logits.append(_mean_logits(first.logits[i], second.logits[i][pair], alike, softmax))
        own = first.masks[i].float()
        masks.append(torch.where(alike[:, None, None] & inside, (own + back[pair]) / 2, own))
        if first.boxes_cxcywh is not None and second.boxes_cxcywh is not None:
            other = second.boxes_cxcywh[i][pair].clone()
            other[:, 0] = width / full - other[:, 0]
            mean = (first.boxes_cxcywh[i] + other) / 2
            boxes.append(torch.where(alike[:, None], mean, first.boxes_cxcywh[i]))
    return LayerOutput(
        first.name, torch.stack(logits), torch.stack(masks), torch.stack(boxes) if boxes else None
    )


def unflip(masks: Tensor, share: float) -> Tensor:
    """Mask logits [Q, h, w] of a mirrored image that fills `share` of the width; linear between cells."""
    w = masks.shape[-1]
    place = (share * w - 1 - torch.arange(w, device=masks.device)).clamp(0, w - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=w - 1)
    return torch.lerp(masks[..., low], masks[..., high], (place - low).to(masks.dtype))


def _inside(masks: Tensor, tall: float, wide: float) -> Tensor:
    """Cells of masks [Q, h, w] whose centres lie in the image, these shares of both sides: bool [h, w].

    The padding has no mirrored counterpart: `unflip` fills it with the image's edge.
    """
    rows, columns = (torch.arange(n, device=masks.device) + 0.5 for n in masks.shape[-2:])
    return (rows < tall * len(rows))[:, None] & (columns < wide * len(columns))


def _pairs(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """For each mask [Q, cells] the most alike other one, and whether it is alike: int64 [Q], bool [Q]."""
    best = mask_iou(own > 0, other > 0).max(1)
    return best.indices, best.values > _ALIKE


def _mean_logits(own: Tensor, other: Tensor, alike: Tensor, softmax: bool) -> Tensor:
    """Logits [Q, K] of the mean probabilities; alone, of half of each (softmax: the rest is no-object's)."""
    tiny = 1e-6
    if not softmax:
        mean = (own.float().sigmoid() + other.float().sigmoid() * alike[:, None]) / 2
        return mean.logit(tiny)
    nothing = torch.zeros_like(other, dtype=torch.float32)
    nothing[:, -1] = 1
    mean = (own.float().softmax(-1) + torch.where(alike[:, None], other.float().softmax(-1), nothing)) / 2
    return mean.clamp(min=tiny).log()
