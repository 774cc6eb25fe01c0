"""Panoptic and semantic maps from query masks, a few queries at a time (Mask2Former §3, MaskFormer §3.4).

Called by `decode.py`. Rules of official Mask2Former (MIT) and Mask DINO (Apache-2.0), whose sigmoid scores
are sharpened by a softmax with a temperature.
Letters: Q queries, K class logits, C classes, N kept queries, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gdseg.recipe import Recipe
from gdseg.structures import Batch

Size = tuple[int, int]
_CHUNK_BYTES = 64 * 2**20  # of one float32 tensor; a few such live at a time


@dataclass(frozen=True)
class Canvas:
    """(height, width) of the padded canvas, of the image in its top left corner, and of the image on disk.

    flip: the network saw the image mirrored, left and right; what is finished or restored is upright.
    """

    padded: Size
    size: Size
    original: Size
    flip: bool = False

    @classmethod
    def of(cls, batch: Batch, b: int = 0, flip: bool = False) -> Canvas:
        """Of image b of a batch."""
        padded = (batch.images.shape[-2], batch.images.shape[-1])
        return cls(padded, batch.sizes[b], batch.original_sizes[b], flip)

    @property
    def chunk(self) -> int:
        """How many masks are held at a time at the larger of the two sizes."""
        return min(_at_once(self.padded), _at_once(self.original))

    def enlarge(self, masks: Tensor) -> Tensor:
        """[N, h, w] over the whole canvas -> float32 [N, H, W] of the canvas."""
        return _resize(masks.float(), self.padded)

    def finish(self, maps: Tensor) -> Tensor:
        """float32 [N, H, W] of the canvas -> cropped to the image, at its size on disk."""
        h, w = self.size
        finished = _resize(maps[:, :h, :w], self.original)
        return finished.flip(-1) if self.flip else finished

    def restore(self, masks: Tensor) -> Tensor:
        """[N, h, w] over the whole canvas -> float32 [N, H, W] at the image's size on disk."""
        return self.finish(self.enlarge(masks))

    def restore_boxes(self, boxes_cxcywh: Tensor) -> Tensor:
        """[N, 4] in 0..1 of the canvas -> x0, y0, x1, y1 in pixels of the image on disk, not clipped."""
        centre, half = boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] / 2
        (H, W), (h, w), (oh, ow) = self.padded, self.size, self.original
        scale = boxes_cxcywh.new_tensor([W / w * ow, H / h * oh] * 2)
        x0, y0, x1, y1 = (torch.cat((centre - half, centre + half), -1) * scale).unbind(-1)
        return torch.stack((ow - x1, y0, ow - x0, y1) if self.flip else (x0, y0, x1, y1), -1)


def _at_once(size: Size) -> int:
    return max(1, _CHUNK_BYTES // (4 * size[0] * size[1]))


def _resize(maps: Tensor, size: Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    if not len(maps):  # torch does not resize nothing
        return maps.new_zeros(0, *size)
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


@dataclass(frozen=True)
class ClassScores:
    """The score of each class at each pixel of an image, made a few classes at a time.

    weights float32 [Q, C]: how much each query speaks for each class; masks [Q, h, w] logits over the whole
    canvas; early: masks are resized to the image on disk before they are combined, else the sums after.
    """

    weights: Tensor
    masks: Tensor
    canvas: Canvas
    early: bool

    @classmethod
    def of(cls, logits_QK: Tensor, masks: Tensor, canvas: Canvas, recipe: Recipe) -> ClassScores:
        """Of one image's final logits and masks, by `postprocess.semantic_resize`."""
        weights = logits_QK.softmax(-1)[:, :-1] if recipe.softmax_classes else _sharpened(logits_QK, recipe)
        return cls(weights, masks, canvas, recipe.postprocess.semantic_resize == "masks")

    @property
    def at_once(self) -> int:
        """How many classes `sums` may be asked for, and how many of them `finish`."""
        return self.canvas.chunk if self.early else _at_once(self.canvas.padded)

    def sums(self, classes: slice) -> Tensor:
        """Score-weighted sums of the masks of some classes: float32 [c, H, W], for `finish`."""
        enlarge, size = (
            (self.canvas.restore, self.canvas.original)
            if self.early
            else (self.canvas.enlarge, self.canvas.padded)
        )
        chosen = self.weights[:, classes]
        total = self.masks.new_zeros(chosen.shape[1], *size, dtype=torch.float32)
        step = self.at_once
        for part, weight in zip(torch.split(self.masks, step), torch.split(chosen, step), strict=True):
            total += torch.einsum("qc,qhw->chw", weight, enlarge(part).sigmoid())
        return total

    def finish(self, sums: Tensor) -> Tensor:
        """Sums [c, H, W] at the size of the image on disk."""
        return sums if self.early else self.canvas.finish(sums)


def semantic_map(logits_QK: Tensor, masks: Tensor, canvas: Canvas, recipe: Recipe) -> Tensor:
    """Label of each pixel, int64 [H, W] on the CPU: the class whose score-weighted masks sum highest.

    The sums are resized to the image's size, or the masks before them (`postprocess.semantic_resize`).
    """
    scores = ClassScores.of(logits_QK, masks, canvas, recipe)
    best = BestClass(canvas.original, masks.device)
    for first in range(0, scores.weights.shape[1], scores.at_once):
        for few in torch.split(scores.sums(slice(first, first + scores.at_once)), canvas.chunk):
            best.add(scores.finish(few))
    return best.labels.cpu()


class BestClass:
    """Which class scores highest at each pixel, told the classes' scores in order, a few at a time."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.best = torch.full(size, -1.0, device=device)
        self.labels = torch.zeros(size, dtype=torch.int64, device=device)
        self.seen = 0

    def add(self, scores: Tensor) -> None:
        """float32 [c, H, W], not negative, of the next c classes."""
        value, index = scores.max(0)
        self.labels = torch.where(value > self.best, index + self.seen, self.labels)
        self.best = torch.maximum(self.best, value)
        self.seen += len(scores)


def panoptic_map(
    logits_QK: Tensor, masks: Tensor, canvas: Canvas, recipe: Recipe, things: Sequence[bool]
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Segment ids int32 [H, W] on the CPU (0: none) and the segments ({id, label, isthing, score})."""
    scores, labels, keep = _kept(logits_QK, recipe)
    owner, inside, full_area = _owners(masks[keep], scores[keep], canvas)
    count = int(keep.sum())
    won, core = (torch.bincount(x.flatten(), minlength=count).cpu() for x in (owner, owner[inside]))
    ids = torch.zeros(count + 1, dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}
    for k, label in enumerate(labels[keep].tolist()):
        kept = won if recipe.postprocess.overlap_area == "won" else core
        share = int(kept[k]) / max(int(full_area[k]), 1)
        if core[k] == 0 or share < recipe.postprocess.overlap_threshold:
            continue
        if label in stuff:  # stuff of one class is one segment
            ids[k] = stuff[label]
            continue
        ids[k] = len(segments) + 1
        if not things[label]:
            stuff[label] = int(ids[k])
        score = float(scores[keep][k])
        segments.append({"id": int(ids[k]), "label": label, "isthing": bool(things[label]), "score": score})
    return ids[torch.where(inside, owner, count).cpu()], segments


def _kept(logits_QK: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """Score and label of each query [Q], and which queries take part."""
    threshold = recipe.postprocess.object_threshold
    if recipe.softmax_classes:
        scores, labels = logits_QK.softmax(-1).max(-1)
        return scores, labels, (labels != logits_QK.shape[1] - 1) & (scores > threshold)
    keep = logits_QK.sigmoid().amax(-1) > threshold
    scores, labels = _sharpened(logits_QK, recipe).max(-1)
    return scores, labels, keep


def _sharpened(logits_QK: Tensor, recipe: Recipe) -> Tensor:
    scores, temperature = logits_QK.sigmoid(), recipe.postprocess.temperature
    return (scores / temperature).softmax(-1) if temperature > 0 else scores


def _owners(masks: Tensor, scores: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """Which of N queries wins each pixel, int64 [H, W]; if its mask has the pixel; all masks' areas [N]."""
    best = masks.new_full(canvas.original, -1.0, dtype=torch.float32)
    owner = torch.zeros(canvas.original, dtype=torch.int64, device=masks.device)
    inside = torch.zeros(canvas.original, dtype=torch.bool, device=masks.device)
    areas = [owner.new_zeros(0)]
    for first in range(0, len(masks), canvas.chunk):
        part = slice(first, first + canvas.chunk)
        probability = canvas.restore(masks[part]).sigmoid()
        areas.append((probability >= 0.5).flatten(1).sum(1))
        value, index = (probability * scores[part, None, None]).max(0)
        better = value > best
        best = torch.where(better, value, best)
        owner = torch.where(better, index + first, owner)
        inside = torch.where(better, probability.gather(0, index[None])[0] >= 0.5, inside)
    return owner, inside, torch.cat(areas).cpu()
