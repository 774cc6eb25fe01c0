"""From a teacher's outputs to pseudo-labels: `Targets` with weights and an ignore mask.

The rule of Guided Distillation (arXiv 2308.02668 §3.2: class score and mask size thresholds), and
on top of it a mask score threshold, top-k, soft weights and an ignore band. Called by `distill.py`
at every step and by `gdseg pseudo-label`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Distill
from gdseg.structures import LayerOutput, Targets


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
def pseudo_targets(output: LayerOutput, rule: Distill, softmax: bool) -> list[Targets]:
    """Pseudo-labels of each image of a batch, masks at the output's resolution (stride 4).

    output: the teacher's final layer, logits [B, Q, K], masks [B, Q, h, w] logits; softmax: whether
    the K logits include no-object. An image with nothing above the thresholds gets empty targets.
    """
    if output.masks is None:
        raise ValueError("the teacher's output has no masks")
    scores, labels = class_scores(output.logits, softmax)
    head_boxes: list[Tensor] | list[None] = [None] * len(scores)
    if rule.boxes == "head" and output.boxes_cxcywh is not None:
        head_boxes = list(output.boxes_cxcywh.float())
    return [
        _image_targets(*parts, rule) for parts in zip(scores, labels, output.masks, head_boxes, strict=True)
    ]


def _image_targets(
    scores: Tensor, labels: Tensor, masks: Tensor, boxes: Tensor | None, rule: Distill
) -> Targets:
    """scores, labels [Q]; masks [Q, h, w] logits; boxes [Q, 4] or None."""
    lowest = rule.ignore_threshold or rule.class_threshold
    candidates = (scores > lowest).nonzero()[:, 0]
    scores, labels = scores[candidates], labels[candidates]
    probabilities = masks[candidates].float().sigmoid()
    inside = probabilities > rule.pixel_threshold
    areas = probabilities.sum((1, 2))
    mask_scores = (probabilities * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)

    sized = areas > rule.min_area
    keep = (scores > rule.class_threshold) & (mask_scores >= rule.mask_threshold) & sized
    quality = scores * mask_scores
    kept = keep.nonzero()[:, 0]
    if rule.max_instances and len(kept) > rule.max_instances:
        kept = kept[quality[kept].topk(rule.max_instances).indices.sort().values]

    kept_masks = inside[kept]
    weights = quality[kept] if rule.weighting == "score" else torch.ones_like(quality[kept])
    kept_boxes = masks_to_boxes_cxcywh(kept_masks) if boxes is None else boxes[candidates[kept]]
    ignore = None
    if rule.ignore_threshold:
        uncertain = sized.clone()
        uncertain[kept] = False
        ignore = inside[uncertain].any(0) & ~kept_masks.any(0)
    return Targets(labels[kept], kept_masks, kept_boxes, weights, ignore, scores=quality[kept])
