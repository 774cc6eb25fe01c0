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

Size = tuple[int, int]
_CHUNK_BYTES = 64 * 2**20  # of one float32 tensor; a few such live at a time


@dataclass(frozen=True)
class Canvas:
    """(height, width) of the padded canvas, of the image in its top left corner, and of the image on disk."""

    padded: Size
    size: Size
    original: Size

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
        return _resize(maps[:, :h, :w], self.original)

    def restore(self, masks: Tensor) -> Tensor:
        """[N, h, w] over the whole canvas -> float32 [N, H, W] at the image's size on disk."""
        return self.finish(self.enlarge(masks))

    def restore_boxes(self, boxes_cxcywh: Tensor) -> Tensor:
        """[N, 4] in 0..1 of the canvas -> x0, y0, x1, y1 in pixels of the image on disk, not clipped."""
        centre, half = boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] / 2
        (H, W), (h, w), (oh, ow) = self.padded, self.size, self.original
        scale = boxes_cxcywh.new_tensor([W / w * ow, H / h * oh] * 2)
        return torch.cat((centre - half, centre + half), -1) * scale


def _at_once(size: Size) -> int:
    return max(1, _CHUNK_BYTES // (4 * size[0] * size[1]))


def _resize(maps: Tensor, size: Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def semantic_map(logits_QK: Tensor, masks: Tensor, canvas: Canvas, recipe: Recipe) -> Tensor:
    """Label of each pixel, int64 [H, W] on the CPU: the class whose score-weighted masks sum highest.

    The sums are resized to the image's size, or the masks before them (`postprocess.semantic_resize`).
    """
    scores_QC = logits_QK.softmax(-1)[:, :-1] if recipe.softmax_classes else _sharpened(logits_QK, recipe)
    early = recipe.postprocess.semantic_resize == "masks"
    enlarge, size = (canvas.restore, canvas.original) if early else (canvas.enlarge, canvas.padded)
    best = masks.new_full(canvas.original, -1.0, dtype=torch.float32)
    labels = torch.zeros(canvas.original, dtype=torch.int64, device=masks.device)
    step, first = (canvas.chunk if early else _at_once(canvas.padded)), 0
    for chosen in torch.split(scores_QC, step, dim=1):
        total = masks.new_zeros(chosen.shape[1], *size, dtype=torch.float32)
        for part, weight in zip(torch.split(masks, step), torch.split(chosen, step), strict=True):
            total += torch.einsum("qc,qhw->chw", weight, enlarge(part).sigmoid())
        for few in torch.split(total, canvas.chunk):
            value, index = (few if early else canvas.finish(few)).max(0)
            labels = torch.where(value > best, index + first, labels)
            best = torch.maximum(best, value)
            first += len(few)
    return labels.cpu()


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
