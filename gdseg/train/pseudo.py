"""From a teacher's outputs to pseudo-labels: `Targets` with weights and an ignore mask.

The rule of Guided Distillation (arXiv 2308.02668 §3.2: class score and mask size thresholds), and
on top of it a mask score threshold, top-k, soft weights and an ignore band. Called by `teacher.py`
at every step and by `label_images.py`. Letters: Q queries, K class logits, h w mask at stride 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.models.suppression import best_of_duplicates
from gdseg.recipe import Distill
from gdseg.structures import LayerOutput, Targets

_AT_ONCE = 16  # masks enlarged in float32 at a time: they can be a thousand


@dataclass
class Choice:
    """What the rule makes of one image's queries: `kept` and `uncertain` are int64 indices, ascending.

    labels int64 [Q]; quality float32 [Q]: class score times mean mask probability, 0 for the others.
    """

    kept: Tensor
    uncertain: Tensor
    labels: Tensor
    quality: Tensor


def class_scores(logits: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    """Score and label of each query: logits [.., Q, K] -> float32 [.., Q], int64 [.., Q].

    With softmax the last of the K classes is no-object; a query that prefers it scores 0.
    """
    if not softmax:
        scores, labels = logits.float().sigmoid().max(-1)
        return scores, labels
    scores, labels = logits.float().softmax(-1).max(-1)
    is_object = labels != logits.shape[-1] - 1
    return scores * is_object, labels * is_object


@torch.no_grad()
def choose(
    logits: Tensor, masks: Tensor, rule: Distill, softmax: bool, thresholds: Tensor | None = None
) -> Choice:
    """Apply the rule to one image: logits [Q, K], masks [Q, h, w] logits.

    thresholds: float32, one for each class (None: `class_threshold` for all). Uncertain are queries large
    enough and scored above `ignore_threshold` that were neither kept nor duplicates of a better one: the rim
    of a duplicate is the edge of an object that has its label. None when that is 0.
    """
    scores, labels = class_scores(logits, softmax)
    bar = torch.full_like(scores, rule.class_threshold) if thresholds is None else thresholds[labels]
    low = torch.full_like(bar, rule.ignore_threshold).minimum(bar) if rule.ignore_threshold else bar
    candidates = (scores > low).nonzero()[:, 0]
    probabilities = masks[candidates].float().sigmoid()
    inside = probabilities > rule.pixel_threshold
    mask_scores = (probabilities * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    sized = probabilities.sum((1, 2)) > rule.min_area

    quality = torch.zeros_like(scores)
    quality[candidates] = scores[candidates] * mask_scores
    measure = (quality if rule.score == "class_mask" else scores)[candidates]
    sure = (measure > bar[candidates]) & (mask_scores >= rule.mask_threshold)
    band = sized & (measure > low[candidates])
    found, sure = candidates[band], sure[band]
    if rule.mask_nms:
        rank = quality[found] + sure  # of duplicates a sure one stays
        best = best_of_duplicates(inside[band], rank, labels[found], rule.mask_nms)
        found, sure = found[best], sure[best]
    kept = found[sure]
    if rule.max_instances and len(kept) > rule.max_instances:
        kept = kept[quality[kept].topk(rule.max_instances).indices.sort().values]
    uncertain = found[~torch.isin(found, kept)]
    return Choice(kept, uncertain if rule.ignore_threshold else uncertain[:0], labels, quality)


@torch.no_grad()
def pseudo_targets(
    output: LayerOutput, rule: Distill, softmax: bool, thresholds: Tensor | None = None
) -> list[Targets]:
    """Pseudo-labels of each image of a batch, masks at `rule.mask_stride`.

    output: the teacher's final layer, logits [B, Q, K], masks [B, Q, h, w] logits; softmax: whether the K
    logits include no-object; thresholds: see `choose`. An image with nothing above the thresholds gets empty
    targets.
    """
    if output.masks is None:
        raise ValueError("the teacher's output has no masks")
    head_boxes = output.boxes_cxcywh if rule.boxes == "head" else None
    return [
        _targets(
            choose(logits, masks, rule, softmax, thresholds),
            masks,
            None if head_boxes is None else head_boxes[i],
            rule,
        )
        for i, (logits, masks) in enumerate(zip(output.logits, output.masks, strict=True))
    ]


def _targets(choice: Choice, masks: Tensor, boxes: Tensor | None, rule: Distill) -> Targets:
    inside, border = _cut(masks[choice.kept], rule)
    quality = choice.quality[choice.kept]
    ignore = None
    if rule.ignore_threshold:
        ignore = ~inside.any(0)
        unsure = torch.zeros_like(ignore)
        for part in torch.split(masks[choice.uncertain], _AT_ONCE):
            unsure |= _cut(part, rule)[0].any(0)
        ignore &= unsure
    if rule.pixel_margin:
        ignore = border if ignore is None else ignore | border
    return Targets(
        labels=choice.labels[choice.kept],
        masks=inside,
        boxes_cxcywh=masks_to_boxes_cxcywh(inside) if boxes is None else boxes[choice.kept].float(),
        weights=quality if rule.weighting == "score" else torch.ones_like(quality),
        ignore=ignore,
        scores=quality,
    )


def near_border(probabilities: Tensor, rule: Distill) -> Tensor:
    """Pixels where some mask's probability [N, H, W] is within `pixel_margin` of the threshold: [H, W]."""
    return ((probabilities - rule.pixel_threshold).abs() < rule.pixel_margin).any(0)


def _cut(masks: Tensor, rule: Distill) -> tuple[Tensor, Tensor]:
    """Logits [N, h, w] at stride 4, enlarged -> bool [N, H, W] at `mask_stride`, and their `near_border`."""
    factor, (N, h, w) = 4 // rule.mask_stride, masks.shape
    inside = torch.empty(N, h * factor, w * factor, dtype=torch.bool, device=masks.device)
    border = torch.zeros(h * factor, w * factor, dtype=torch.bool, device=masks.device)
    for first in range(0, N, _AT_ONCE):
        logits = masks[None, first : first + _AT_ONCE].float()
        if factor > 1:
            logits = F.interpolate(logits, scale_factor=factor, mode="bilinear")
        probabilities = logits[0].sigmoid()
        inside[first : first + _AT_ONCE] = probabilities > rule.pixel_threshold
        border |= near_border(probabilities, rule)
    return inside, border
