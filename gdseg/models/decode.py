"""From `Outputs` to `Predictions` at each image's original size, in bounded memory.

Called by train, eval and predict. The rules are those of official Mask2Former (MIT) and Mask DINO
(Apache-2.0): masks are enlarged to the padded canvas, cropped to the image and resized to its size on disk,
bilinearly, a few at a time. Panoptic and semantic maps are in `decode_maps.py`.
Letters: Q queries, K class logits, C classes, N instances, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.models.decode_maps import Canvas, panoptic_map, semantic_map
from gdseg.models.suppression import best_of_duplicates
from gdseg.recipe import Recipe, settled
from gdseg.structures import Batch, Outputs, Predictions


@torch.no_grad()
def decode(
    outputs: Outputs,
    batch: Batch,
    recipe: Recipe,
    num_classes: int,
    things: Sequence[bool] | None = None,
    *,
    flip: bool = False,
) -> list[Predictions]:
    """One `Predictions` an image of `batch`, on the CPU, made of the final layer's output.

    recipe.task instance fills labels, scores, boxes and RLEs; panoptic, these for thing classes and the
    segment map; semantic, the label map alone. things: which of the `num_classes` are things (None: all).
    flip: the images of the batch are mirrored; what is found is upright.
    """
    final = outputs.final
    assert final.masks is not None
    boxes = final.boxes_cxcywh
    found = []
    for b, image_id in enumerate(batch.image_ids):
        canvas = Canvas.of(batch, b, flip)
        logits, masks = final.logits[b].float(), final.masks[b]
        none = Predictions(image_id, canvas.original, *_nothing())
        if recipe.task == "semantic":
            found.append(replace(none, semantic=semantic_map(logits, masks, canvas, recipe)))
            continue
        head = None if boxes is None or recipe.postprocess.boxes == "mask" else boxes[b].float()
        wanted = None
        if recipe.task == "panoptic":
            is_thing = list(things) if things is not None else [True] * num_classes
            wanted = torch.tensor(is_thing, device=logits.device)
            panoptic, segments = panoptic_map(logits, masks, canvas, recipe, is_thing)
            none = replace(none, panoptic=panoptic, segments=segments)
        found.append(_instances(none, logits, masks, head, canvas, recipe, wanted))
    return found


def _nothing() -> tuple[Tensor, Tensor, Tensor, list[dict[str, Any]]]:
    return torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 4), []


def _instances(
    none: Predictions,
    logits_QK: Tensor,
    masks: Tensor,
    boxes_cxcywh: Tensor | None,
    canvas: Canvas,
    recipe: Recipe,
    wanted: Tensor | None,
) -> Predictions:
    """The best (query, class) pairs with a mask that is not empty; each query's mask is enlarged once."""
    scores_QC = _class_scores(logits_QK, recipe)
    count = min(settled(recipe.postprocess.max_detections), scores_QC.numel())
    scores, index = scores_QC.flatten().topk(count)
    query, labels = index // scores_QC.shape[1], index % scores_QC.shape[1]
    if wanted is not None:
        scores, query, labels = (value[wanted[labels]] for value in (scores, query, labels))
    used, place = torch.unique(query, return_inverse=True)
    quality, boxes, rles = _mask_facts(masks[used], canvas)
    if boxes_cxcywh is not None:
        boxes = canvas.restore_boxes(boxes_cxcywh[used])
    filled = quality > 0
    if recipe.postprocess.score == "class_mask":
        scores = scores * quality[place]
    keep = filled[place]
    if recipe.postprocess.mask_nms:
        keep &= best_of_duplicates(masks[query] > 0, scores, labels, recipe.postprocess.mask_nms)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[keep[order]]
    place = place[order].cpu()
    return replace(
        none,
        labels=labels[order].cpu(),
        scores=scores[order].cpu(),
        boxes_xyxy_px=boxes.cpu()[place],
        rles=[rles[i] for i in place.tolist()],
    )


def _class_scores(logits_QK: Tensor, recipe: Recipe) -> Tensor:
    """Score of each query and class [Q, C]; no-object has none."""
    if not recipe.softmax_classes:
        return logits_QK.sigmoid()
    as_sigmoid = recipe.decoder.kind == "maskdino" and recipe.postprocess.softmax_score == "sigmoid"
    return (logits_QK.sigmoid() if as_sigmoid else logits_QK.softmax(-1))[:, :-1]


def _mask_facts(masks: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """Of mask logits [N, h, w]: mean probability inside [N] (0: empty), tight boxes in pixels, RLEs."""
    quality, boxes = [masks.new_zeros(0, dtype=torch.float32)], [masks.new_zeros(0, 4, dtype=torch.float32)]
    rles: list[dict[str, Any]] = []
    for part in torch.split(masks, canvas.chunk):
        logits = canvas.restore(part)
        inside = logits > 0
        total = logits.sigmoid().mul_(inside).flatten(1).sum(1)
        quality.append(total / (inside.flatten(1).sum(1) + 1e-6))
        boxes.append(_tight_boxes(inside))
        columns = inside.transpose(1, 2).contiguous().cpu().numpy().view("uint8")
        rles += coco_mask.encode(columns.transpose(2, 1, 0))
    return torch.cat(quality), torch.cat(boxes), rles


def _tight_boxes(inside: Tensor) -> Tensor:
    """bool [N, H, W] -> x0, y0, x1, y1 [N, 4] in pixels, x1 and y1 after the last one; zeros if empty."""
    sides = []
    for some in (inside.any(1), inside.any(2)):
        first = some.int().argmax(1)
        last = some.shape[1] - some.flip(1).int().argmax(1)
        sides.append((first, last * some.any(1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), -1).float()
