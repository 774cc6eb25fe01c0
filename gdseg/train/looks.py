"""A teacher that looks more than once: mirrored, at other sizes (`distill.teacher_flip`, `teacher_scales`).

Queries of two passes have no common order, so each query of the first look is paired with the one of another
whose mask is most alike. What is seen again is averaged; a look that does not see it again counts with
score 0, which makes the score a measure of agreement (Data Distillation, arXiv 1712.04440 §4 ensembles
flips and scales so; pairing by masks and the 0 are ours). Called by teacher.py and label_images.py.
Letters: B batch, Q queries, K class logits, h w mask at stride 4.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gdseg.data.loader import stack
from gdseg.infer.run import forward
from gdseg.models.mask_iou import mask_iou
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput

_ALIKE = 0.5  # least mask IoU of a pair


def all_looks(
    first: LayerOutput, model: SegmentationModel, batch: Batch, recipe: Recipe, softmax: bool
) -> LayerOutput:
    """`first`, the final layer for a batch, averaged with the other looks that the recipe asks for.

    softmax: whether the network's class logits include no-object.
    """
    if len(recipe.distill.looks) == 1:
        return first
    mean = Mean(first, batch, softmax, image_boxes=recipe.loss.boxes_relative_to == "image")
    for scale, flip in recipe.distill.looks[1:]:
        seen = resized(batch, scale)
        mean.add(forward(model, mirrored(seen) if flip else seen, recipe).final, seen, flip)
    return mean.output()


def mirrored(batch: Batch) -> Batch:
    """The images flipped left to right, each within its own width; padding stays at the right."""
    images = torch.zeros_like(batch.images)
    for i, (height, width) in enumerate(batch.sizes):
        images[i, :, :height, :width] = batch.images[i, :, :height, :width].flip(-1)
    return replace(batch, images=images)


def resized(batch: Batch, scale: float) -> Batch:
    """The images at a multiple of their size, float32 unless it is 1, padded anew."""
    if scale == 1:
        return batch
    images = []
    for image, (height, width) in zip(batch.images, batch.sizes, strict=True):
        size = max(1, round(height * scale)), max(1, round(width * scale))
        own = image[None, :, :height, :width].float()  # a GPU cannot resize bytes so
        images.append(F.interpolate(own, size, mode="bilinear", antialias=True)[0])
    return replace(batch, images=stack(images), sizes=[(i.shape[-2], i.shape[-1]) for i in images])


class Mean:
    """The mean of several looks at a batch, over what each query of the first one is in all of them."""

    def __init__(self, first: LayerOutput, batch: Batch, softmax: bool, *, image_boxes: bool = False) -> None:
        """image_boxes: boxes are shares of the image, not of the padded canvas."""
        assert first.masks is not None
        self.first, self.batch, self.softmax, self.image_boxes = first, batch, softmax, image_boxes
        self.looks = 1
        self.scores = [_probabilities(logits, softmax) for logits in first.logits]
        self.masks = first.masks.float().clone()
        self.boxes = None if first.boxes_cxcywh is None else first.boxes_cxcywh.clone()
        self.times = torch.ones(first.masks.shape[:2], device=first.masks.device)

    @torch.no_grad()
    def add(self, found: LayerOutput, seen: Batch, flip: bool) -> None:
        """A look's final layer; seen: what it looked at, before it was mirrored if `flip`."""
        assert self.first.masks is not None
        assert found.masks is not None
        self.looks += 1
        for i in range(len(self.batch)):
            own, inside = self.first.masks[i], self._inside(i)
            back = brought_back(found.masks[i].float(), own.shape[-2:], *self._shares(i, seen), flip)
            pair, alike = _pairs(own[:, inside], back[:, inside])
            again = alike.float()
            probabilities = _probabilities(found.logits[i][pair], self.softmax)
            self.scores[i] += _seen_again(probabilities, alike, self.softmax)
            self.masks[i] += back[pair] * again[:, None, None]
            self.times[i] += again
            if self.boxes is not None and found.boxes_cxcywh is not None:
                self.boxes[i] += self._boxes_back(found.boxes_cxcywh[i][pair], i, seen, flip) * again[:, None]

    @torch.no_grad()
    def output(self) -> LayerOutput:
        """As the first look's final layer; its masks outside of the images stay as they are."""
        assert self.first.masks is not None
        masks = self.masks.div_(self.times[..., None, None])
        for i in range(len(self.batch)):
            outside = ~self._inside(i)
            masks[i][:, outside] = self.first.masks[i][:, outside].float()
        boxes = None if self.boxes is None else self.boxes / self.times[..., None]
        logits = [_logits(scores / self.looks, self.softmax) for scores in self.scores]
        return LayerOutput(self.first.name, torch.stack(logits), masks, boxes)

    def _shares(self, i: int, seen: Batch) -> tuple[tuple[float, float], tuple[float, float]]:
        """The shares of both sides of the canvas that image i fills in the first look, and in `seen`."""
        tall, wide = self.batch.images.shape[-2:]
        high, far = seen.images.shape[-2:]
        own, other = self.batch.sizes[i], seen.sizes[i]
        return (own[0] / tall, own[1] / wide), (other[0] / high, other[1] / far)

    def _inside(self, i: int) -> Tensor:
        """Cells of the first look's masks whose centres lie in image i: bool [h, w].

        The padding has no mirrored counterpart: it would be filled with the image's edge.
        """
        assert self.first.masks is not None
        shares, _ = self._shares(i, self.batch)
        device, sides = self.first.masks.device, self.first.masks.shape[-2:]
        rows, columns = (
            torch.arange(n, device=device) + 0.5 < share * n for n, share in zip(sides, shares, strict=True)
        )
        return rows[:, None] & columns

    def _boxes_back(self, boxes: Tensor, i: int, seen: Batch, flip: bool) -> Tensor:
        """Boxes [Q, 4] of a look at `seen` as the first look has them."""
        (tall, wide), (high, far) = self._shares(i, seen)
        if self.image_boxes:
            tall = wide = high = far = 1.0
        back = boxes * boxes.new_tensor([wide / far, tall / high] * 2)
        if flip:
            back[:, 0] = wide - back[:, 0]
        return back


def brought_back(
    masks: Tensor, size: torch.Size, own: tuple[float, float], other: tuple[float, float], flip: bool
) -> Tensor:
    """Masks [Q, ..] of a look, on the first look's grid [.., h, w].

    own, other: the shares of both sides that the image fills in the first look's grid and in this one.
    """
    if own != other or masks.shape[-2:] != size:
        masks = _resampled(masks.mT, size[0], own[0], other[0], flip=False).mT
    elif not flip:
        return masks
    return _resampled(masks, size[1], own[1], other[1], flip=flip)


def _resampled(masks: Tensor, n: int, own: float, other: float, *, flip: bool) -> Tensor:
    """Masks [.., m], of which the image fills the share `other`, at n cells, of which it fills `own`.

    Linear between cells of the image; places beyond them have the value of the last one.
    """
    m = masks.shape[-1]
    cells = other * m
    step = cells / (own * n)  # cells of `masks` for each of the n
    start = cells - 0.5 - step / 2 if flip else step / 2 - 0.5
    place = start + torch.arange(n, device=masks.device) * (-step if flip else step)
    last = max(0, min(m, math.ceil(cells - 1e-6)) - 1)
    place = place.clamp(0, last)
    low = place.floor().long()
    high = (low + 1).clamp(max=last)
    return torch.lerp(masks[..., low], masks[..., high], (place - low).to(masks.dtype))


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
