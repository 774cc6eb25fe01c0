"""Pseudo-labels of panoptic and semantic tasks, which guided distillation's paper does not have.

Things follow the rule of instances (`pseudo.py`), each pixel going to the surest thing that claims it, so
that none overlap. Stuff (semantic: every class) is decided pixel by pixel, as MaskFormer infers classes
(arXiv 2107.06278 §3.4), but by the best query instead of the sum of all, which keeps scores within 0..1; a
threshold on them leaves unsure pixels out, as FixMatch does with images (arXiv 2001.07685 §2.2). The
combination is ours. Pixels that nothing surely claims are ignored. Called by `teacher.py`, at stride 4, and
by `label_entry.py`, at the image's size.
Letters: Q queries, K class logits, C classes, h w mask at stride 4, H W pixels that are decided, N instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.models.decode_maps import Canvas
from gdseg.recipe import Recipe
from gdseg.structures import LayerOutput, Targets
from gdseg.train.pseudo import choose, near_border


@dataclass(frozen=True)
class Grid:
    """The pixels that are decided: `look(masks)` makes logits [n, h, w] of masks at stride 4 those of pixels.

    at_once: how many masks are looked at together; cells: how many pixels a cell at stride 4 is.
    """

    look: Callable[[Tensor], Tensor] = Tensor.float
    at_once: int = 1 << 30
    cells: float = 1.0

    @classmethod
    def of(cls, canvas: Canvas, masks: Tensor) -> Grid:
        """The pixels of the image on disk, of masks [.., h, w] over the whole canvas."""
        inside = (canvas.size[0] * canvas.size[1]) / (canvas.padded[0] * canvas.padded[1])
        small = masks.shape[-2] * masks.shape[-1] * inside
        return cls(canvas.restore, canvas.chunk, canvas.original[0] * canvas.original[1] / small)

    def parts(self, masks: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(number of the first, probabilities [n, H, W]) of some masks after the other."""
        for first in range(0, len(masks), self.at_once):
            yield first, self.look(masks[first : first + self.at_once]).sigmoid()


@dataclass(frozen=True)
class Regions:
    """An image's segments, things and then regions of stuff: labels int64 [N], scores float32 [N].

    place int64 [H, W]: the segment of each pixel, -1: none; border bool [H, W]: pixels near a thing's border.
    """

    labels: Tensor
    scores: Tensor
    place: Tensor
    border: Tensor


@torch.no_grad()
def pseudo_maps(
    output: LayerOutput,
    recipe: Recipe,
    things: Sequence[bool],
    softmax: bool,
    thresholds: Tensor | None = None,
) -> list[Targets]:
    """Pseudo-labels of each image of a batch without overlaps, masks at the output's resolution (stride 4).

    output: logits [B, Q, K], masks [B, Q, h, w] logits; things: which labels are things; softmax: whether
    the K logits include no-object; thresholds of things: see `pseudo.choose`. Every pixel is in one mask or
    in the ignore region.
    """
    if output.masks is None:
        raise ValueError("the teacher's output has no masks")
    pairs = zip(output.logits, output.masks, strict=True)
    return [
        _targets(regions(logits, masks, recipe, things, softmax, thresholds), recipe)
        for logits, masks in pairs
    ]


def _targets(found: Regions, recipe: Recipe) -> Targets:
    masks = found.place == torch.arange(len(found.labels), device=found.place.device)[:, None, None]
    soft = recipe.distill.weighting == "score"
    return Targets(
        labels=found.labels,
        masks=masks,
        boxes_cxcywh=masks_to_boxes_cxcywh(masks),
        weights=found.scores if soft else torch.ones_like(found.scores),
        ignore=(found.place < 0) | found.border,
        scores=found.scores,
    )


@torch.no_grad()
def regions(
    logits_QK: Tensor,
    masks_Qhw: Tensor,
    recipe: Recipe,
    things: Sequence[bool],
    softmax: bool,
    thresholds: Tensor | None = None,
    grid: Grid | None = None,
) -> Regions:
    """The segments of one image, at stride 4 or on a finer grid; see `pseudo_maps`."""
    rule, grid = recipe.distill, grid or Grid()
    logits_QK, masks_Qhw = logits_QK.float(), masks_Qhw.float()
    thing_C = torch.tensor(things, device=logits_QK.device) & (recipe.task == "panoptic")
    choice = choose(logits_QK, masks_Qhw, rule, softmax, thresholds)
    kept = choice.kept[thing_C[choice.labels[choice.kept]]]
    owner_HW = _owners(masks_Qhw[kept], choice.quality[kept], rule.pixel_threshold, grid)
    least = rule.min_area * grid.cells
    owner_HW, large = _without_small(owner_HW, len(kept), least)
    kept = kept[large]
    border_HW = torch.zeros_like(owner_HW, dtype=torch.bool)
    for _, claims_nHW in grid.parts(masks_Qhw[kept]) if rule.pixel_margin else ():
        border_HW |= near_border(claims_nHW, rule)

    scores_QC = logits_QK.softmax(-1)[:, :-1] if softmax else logits_QK.sigmoid()
    best_HW, label_HW = _best_class(scores_QC.masked_fill(thing_C, 0.0), masks_Qhw, grid)
    free_HW = (owner_HW < 0) & (best_HW > rule.region_threshold)
    unsure = choice.uncertain[thing_C[choice.labels[choice.uncertain]]]
    for _, claims_nHW in grid.parts(masks_Qhw[unsure]):
        free_HW &= ~(claims_nHW > rule.pixel_threshold).any(0)
    pixels_C = torch.bincount(label_HW[free_HW], minlength=len(thing_C))
    present = (pixels_C > least).nonzero()[:, 0]  # small regions are seldom right: ignored
    sums = [
        (best_HW * (free_HW & (label_HW == part_R[:, None, None]))).flatten(1).sum(1)
        for part_R in torch.split(present, grid.at_once)
    ]
    place_C = torch.full_like(pixels_C, -1)
    place_C[present] = torch.arange(len(present), device=present.device) + len(kept)
    return Regions(
        torch.cat([choice.labels[kept], present]),
        torch.cat([choice.quality[kept], torch.cat(sums) / pixels_C[present]]),
        torch.where(free_HW, place_C[label_HW], owner_HW),
        border_HW,
    )


def _owners(masks: Tensor, quality_N: Tensor, threshold: float, grid: Grid) -> Tensor:
    """int64 [H, W]: the mask that claims a pixel with the largest probability times quality; -1: none."""
    best_HW = torch.zeros_like(grid.look(masks[:1]).sum(0))
    owner_HW = torch.full_like(best_HW, -1, dtype=torch.int64)
    for first, claims_nHW in grid.parts(masks):
        inside_nHW = claims_nHW > threshold
        quality_n = quality_N[first : first + len(claims_nHW), None, None]
        largest_HW, number_HW = (claims_nHW * inside_nHW * quality_n).max(0)
        better_HW = largest_HW > best_HW
        best_HW = torch.where(better_HW, largest_HW, best_HW)
        owner_HW = torch.where(better_HW, number_HW + first, owner_HW)
    return owner_HW


def _without_small(owner_HW: Tensor, count: int, least: float) -> tuple[Tensor, Tensor]:
    """The owners numbered anew without those of at most `least` pixels, and which of `count` are left."""
    large = torch.bincount(owner_HW[owner_HW >= 0], minlength=count) > least
    number = torch.where(large, large.cumsum(0) - 1, -1)
    number = torch.cat([number, number.new_full((1,), -1)])  # the last one: of what is nobody's
    return number[owner_HW], large


def _best_class(scores_QC: Tensor, masks_Qhw: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Largest class score times mask probability over all queries and classes [H, W], and its class.

    A query's best class is the only one of its that can win a pixel, so no [Q, C, H, W] is made.
    """
    score_Q, label_Q = scores_QC.max(1)
    best_HW = query_HW = torch.zeros(0)
    for first, claims_nHW in grid.parts(masks_Qhw):
        largest_HW, number_HW = (claims_nHW * score_Q[first : first + len(claims_nHW), None, None]).max(0)
        if not first:
            best_HW, query_HW = largest_HW, number_HW
            continue
        better_HW = largest_HW > best_HW
        best_HW = torch.where(better_HW, largest_HW, best_HW)
        query_HW = torch.where(better_HW, number_HW + first, query_HW)
    return best_HW, label_Q[query_HW]
