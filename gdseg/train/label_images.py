"""Pseudo-labels of single images at full size, by the very rule of training (`pseudo.pseudo_targets`).

Training keeps masks at stride 4; labels that people look at and edit need the image's own size.
Called by `gdseg pseudo-label`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.models.decode_maps import Canvas
from gdseg.predict import Predictor
from gdseg.recipe import Distill
from gdseg.structures import LayerOutput, Predictions
from gdseg.train.pseudo import pseudo_targets


def label_image(predictor: Predictor, image: Tensor, rule: Distill) -> tuple[Predictions, Predictions]:
    """The pseudo-labels of an image [C, H, W], and what the rule would take at a lower class score.

    The lower score is `rule.ignore_threshold`, or half of `rule.class_threshold` where that is 0.
    Scores are class score times mean mask probability.
    """
    batch, outputs = predictor.outputs(image)
    softmax = predictor.network.recipe.softmax_classes
    canvas = Canvas((batch.images.shape[-2], batch.images.shape[-1]), batch.sizes[0], batch.original_sizes[0])
    lower = replace(rule, class_threshold=rule.ignore_threshold or rule.class_threshold / 2, max_instances=0)
    chosen, labels, scores = _queries(outputs.final, rule, softmax)
    candidates, other_labels, other_scores = _queries(outputs.final, lower, softmax)
    other = ~torch.isin(candidates, chosen)
    masks, names = outputs.final.masks, predictor.classes
    assert masks is not None
    return (
        _full_size(masks[0, chosen], labels, scores, canvas, rule, names),
        _full_size(
            masks[0, candidates[other]], other_labels[other], other_scores[other], canvas, rule, names
        ),
    )


def _queries(output: LayerOutput, rule: Distill, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Index, label and score of the queries that the rule takes: it hands boxes on, here the index."""
    index = torch.arange(output.logits.shape[1], device=output.logits.device, dtype=torch.float32)
    numbered = replace(output, boxes_cxcywh=index[None, :, None].expand(1, -1, 4))
    [targets] = pseudo_targets(numbered, replace(rule, boxes="head", ignore_threshold=0.0), softmax)
    assert targets.scores is not None
    return targets.boxes_cxcywh[:, 0].long(), targets.labels, targets.scores


def _full_size(
    masks: Tensor, labels: Tensor, scores: Tensor, canvas: Canvas, rule: Distill, names: list[str]
) -> Predictions:
    """Predictions of mask logits [N, h, w], best first, without those that have no pixel at full size."""
    order = scores.argsort(descending=True, stable=True)
    rles = []
    for part in torch.split(masks[order], canvas.chunk) if len(masks) else ():
        inside = (canvas.restore(part).sigmoid() > rule.pixel_threshold).cpu().numpy()
        rles += [coco_mask.encode(mask.astype("uint8", order="F")) for mask in inside]
    boxes = torch.tensor([coco_mask.toBbox(rle).tolist() for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found = Predictions(
        "image", canvas.original, labels[order].cpu(), scores[order].cpu(), boxes, rles, names
    )
    return found.select(torch.tensor([coco_mask.area(rle) > 0 for rle in rles], dtype=torch.bool))
