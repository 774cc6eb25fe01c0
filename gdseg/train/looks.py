"""A teacher that looks more than once: mirrored, at other sizes (`distill.teacher_flip`, `teacher_scales`).

Queries of two passes have no common order, so each query of the first is paired with the one of another
whose mask is most alike. What is seen again is averaged; a look that does not see it again counts with
score 0, which makes the score a measure of agreement (Data Distillation, arXiv 1712.04440 §4 ensembles
flips and scales so; pairing by masks and the 0 are ours). Called by teacher.py and label_images.py.
Letters: B batch, Q queries, K class logits, h w mask at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gdseg.infer.run import forward
from gdseg.models.mask_iou import mask_iou
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput

_ALIKE = 0.5  # least mask IoU of a pair
_SIDE = 32  # a network's coarsest stride


def all_looks(
    first: LayerOutput, model: SegmentationModel, batch: Batch, recipe: Recipe, softmax: bool
) -> LayerOutput:
    """`first`, the final layer for a batch, averaged with the other looks that the recipe asks for.

    softmax: whether the network's class logits include no-object.
    """
    looks = []
    for scale, flip in recipe.distill.looks[1:]:
        seen = resized(batch, scale)
        found = forward(model, mirrored(seen) if flip else seen, recipe).final
        looks.append(brought_back(found, first, batch, flip))
    return agreed(first, looks, batch, softmax) if looks else first


def mirrored(batch: Batch) -> Batch:
    """The images flipped left to right, each within its own width; padding stays at the right."""
    images = torch.zeros_like(batch.images)
    for i, (height, width) in enumerate(batch.sizes):
        images[i, :, :height, :width] = batch.images[i, :, :height, :width].flip(-1)
    return replace(batch, images=images)


def resized(batch: Batch, scale: float) -> Batch:
    """The images at a multiple of their size; both sides of the canvas are rounded to strides of the network.

    Each image fills the same share of the canvas, to a pixel, so that masks and boxes need only resizing.
    """
    if scale == 1:
        return batch
    old = batch.images.shape[-2:]
    new = [max(_SIDE, round(side * scale / _SIDE) * _SIDE) for side in old]
    images = batch.images.new_zeros((*batch.images.shape[:2], *new))
    sizes = [(_part(h, old[0], new[0]), _part(w, old[1], new[1])) for h, w in batch.sizes]
    for i, ((height, width), size) in enumerate(zip(batch.sizes, sizes, strict=True)):
        own = batch.images[i : i + 1, :, :height, :width]
        images[i, :, : size[0], : size[1]] = F.interpolate(own, size, mode="bilinear", antialias=True)[0]
    return replace(batch, images=images, sizes=sizes)


def _part(length: int, old: int, new: int) -> int:
    return max(1, round(length * new / old))


@torch.no_grad()
def brought_back(found: LayerOutput, first: LayerOutput, batch: Batch, flip: bool) -> LayerOutput:
    """A look at `batch`, resized and perhaps mirrored, as if it had been a look at `batch` itself."""
    assert found.masks is not None
    assert first.masks is not None
    shape = first.masks.shape[-2:]
    masks = found.masks.float()
    if masks.shape[-2:] != shape:
        masks = F.interpolate(masks, shape, mode="bilinear", align_corners=False)
    boxes = found.boxes_cxcywh
    if flip:
        shares = [width / batch.images.shape[-1] for _, width in batch.sizes]
        masks = torch.stack([unflip(own, share) for own, share in zip(masks, shares, strict=True)])
        if boxes is not None:
            x = boxes.new_tensor(shares)[:, None] - boxes[..., 0]
            boxes = torch.cat([x[..., None], boxes[..., 1:]], -1)
    return LayerOutput(found.name, found.logits, masks, boxes)


@torch.no_grad()
def agreed(first: LayerOutput, looks: Sequence[LayerOutput], batch: Batch, softmax: bool) -> LayerOutput:
    """`first` [B, Q, ..] averaged with other looks at `batch`; softmax: logits include no-object."""
    assert first.masks is not None
    tall, full = batch.images.shape[-2:]
    images = []
    for i, (height, width) in enumerate(batch.sizes):
        inside = _inside(first.masks[i], height / tall, width / full)
        images.append(
            _mean(*(_Image.of(each, i, softmax) for each in (first, *looks)), inside=inside, softmax=softmax)
        )
    return LayerOutput(
        first.name,
        torch.stack([_logits(image.scores, softmax) for image in images]),
        torch.stack([image.masks for image in images]),
        None if first.boxes_cxcywh is None else torch.stack([image.boxes for image in images]),
    )


@dataclass
class _Image:
    """What a look says of one image: scores [Q, K], masks [Q, h, w], boxes [Q, 4] (of none: nothing)."""

    scores: Tensor
    masks: Tensor
    boxes: Tensor

    @classmethod
    def of(cls, found: LayerOutput, i: int, softmax: bool) -> _Image:
        assert found.masks is not None
        masks, boxes = found.masks[i].float(), found.boxes_cxcywh
        boxes = masks.new_zeros(len(masks), 4) if boxes is None else boxes[i]
        return cls(_probabilities(found.logits[i], softmax), masks, boxes)


def _mean(first: _Image, *looks: _Image, inside: Tensor, softmax: bool) -> _Image:
    """The mean of what each query of `first` is in all looks; its mask outside of `inside` stays as it is."""
    scores, masks, boxes = first.scores.clone(), first.masks.clone(), first.boxes.clone()
    times = torch.ones(len(masks), 1, device=masks.device)
    for look in looks:
        pair, alike = _pairs(first.masks[:, inside], look.masks[:, inside])
        again = alike[:, None].to(masks.dtype)
        scores += _seen_again(look.scores[pair], alike, softmax)
        masks += look.masks[pair] * again[..., None]
        boxes += look.boxes[pair] * again
        times += again
    masks = torch.where(inside, masks / times[..., None], first.masks)
    return _Image(scores / (1 + len(looks)), masks, boxes / times)


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


def _probabilities(logits: Tensor, softmax: bool) -> Tensor:
    return logits.float().softmax(-1) if softmax else logits.float().sigmoid()


def _seen_again(probabilities: Tensor, alike: Tensor, softmax: bool) -> Tensor:
    """Probabilities [Q, K]; of what is not seen again 0 (softmax: all is no-object's)."""
    nothing = torch.zeros_like(probabilities)
    if softmax:
        nothing[:, -1] = 1
    return torch.where(alike[:, None], probabilities, nothing)


def _logits(probabilities: Tensor, softmax: bool) -> Tensor:
    tiny = 1e-6
    return probabilities.clamp(min=tiny).log() if softmax else probabilities.logit(tiny)
