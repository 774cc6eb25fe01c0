"""Pseudo-labels of panoptic and semantic tasks, which guided distillation's paper does not have.

Things follow the rule of instances (`pseudo.py`), each pixel going to the surest thing that claims it, so
that none overlap. Stuff (semantic: every class) is decided pixel by pixel, as MaskFormer infers classes
(arXiv 2107.06278 §3.4), but by the best query instead of the sum of all, which keeps scores within 0..1; a
threshold on them leaves unsure pixels out, as FixMatch does with images (arXiv 2001.07685 §2.2). The
combination is ours. Pixels that nothing surely claims are ignored. Called by `teacher.py`.
Letters: Q queries, K class logits, C classes, h w mask at stride 4, N instances.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import LayerOutput, Targets
from gdseg.train.pseudo import choose, near_border


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
    thing_C = torch.tensor(things, device=output.logits.device) & (recipe.task == "panoptic")
    pairs = zip(output.logits, output.masks, strict=True)
    return [
        _targets(logits.float(), masks.float(), recipe, thing_C, softmax, thresholds)
        for logits, masks in pairs
    ]


def _targets(
    logits_QK: Tensor,
    masks_Qhw: Tensor,
    recipe: Recipe,
    thing_C: Tensor,
    softmax: bool,
    thresholds: Tensor | None,
) -> Targets:
    rule = recipe.distill
    choice = choose(logits_QK, masks_Qhw, rule, softmax, thresholds)
    kept = choice.kept[thing_C[choice.labels[choice.kept]]]
    claims_Nhw = masks_Qhw[kept].sigmoid()
    inside_Nhw = _without_overlap(claims_Nhw, choice.quality[kept], rule.pixel_threshold)
    large = inside_Nhw.flatten(1).sum(1) > rule.min_area
    kept, inside_Nhw, claims_Nhw = kept[large], inside_Nhw[large], claims_Nhw[large]

    scores_QC = logits_QK.softmax(-1)[:, :-1] if softmax else logits_QK.sigmoid()
    best_hw, label_hw = _best_class(scores_QC.masked_fill(thing_C, 0.0), masks_Qhw)
    unsure = choice.uncertain[thing_C[choice.labels[choice.uncertain]]]
    doubtful_hw = (masks_Qhw[unsure].sigmoid() > rule.pixel_threshold).any(0)
    free_hw = ~inside_Nhw.any(0) & ~doubtful_hw & (best_hw > rule.region_threshold)
    pixels_C = torch.bincount(label_hw[free_hw], minlength=len(thing_C))
    present = (pixels_C > rule.min_area).nonzero()[:, 0]  # small regions are seldom right: ignored
    regions_Rhw = free_hw & (label_hw == present[:, None, None])
    sure_R = (regions_Rhw * best_hw).flatten(1).sum(1) / regions_Rhw.flatten(1).sum(1).clamp(min=1)

    masks = torch.cat([inside_Nhw, regions_Rhw])
    scores = torch.cat([choice.quality[kept], sure_R])
    return Targets(
        labels=torch.cat([choice.labels[kept], present]),
        masks=masks,
        boxes_cxcywh=masks_to_boxes_cxcywh(masks),
        weights=scores if rule.weighting == "score" else torch.ones_like(scores),
        ignore=~masks.any(0) | near_border(claims_Nhw, rule),
        scores=scores,
    )


def _without_overlap(claims_Nhw: Tensor, quality_N: Tensor, threshold: float) -> Tensor:
    """bool [N, h, w]: each pixel of a mask, where its probability times the quality is the largest."""
    if not len(claims_Nhw):
        return claims_Nhw > threshold
    inside_Nhw = claims_Nhw > threshold
    owner_hw = (claims_Nhw * inside_Nhw * quality_N[:, None, None]).argmax(0)
    return inside_Nhw & (owner_hw == torch.arange(len(claims_Nhw), device=owner_hw.device)[:, None, None])


def _best_class(scores_QC: Tensor, masks_Qhw: Tensor) -> tuple[Tensor, Tensor]:
    """Largest class score times mask probability over all queries and classes [h, w], and its class.

    A query's best class is the only one of its that can win a pixel, so no [Q, C, h, w] is made.
    """
    score_Q, label_Q = scores_QC.max(1)
    best_hw, query_hw = (masks_Qhw.sigmoid() * score_Q[:, None, None]).max(0)
    return best_hw, label_Q[query_hw]
