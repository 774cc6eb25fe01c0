"""Pseudo-label maps of single images at full size, by the rule of training (`pseudo_maps.regions`).

What nothing surely claims, and the blurred borders of things (`distill.pixel_margin`), are of no class.
Called by label_entry.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.data.rle import boxes_of, to_rle
from gdseg.models.decode_maps import Canvas
from gdseg.predict import Predictor
from gdseg.recipe import Distill
from gdseg.structures import ClassInfo, Predictions
from gdseg.train.label_images import looked
from gdseg.train.pseudo import class_scores
from gdseg.train.pseudo_maps import Grid, regions


def label_map(
    predictor: Predictor, image: Tensor, rule: Distill, thresholds: Tensor | None = None
) -> tuple[Predictions, float]:
    """The segments of an image [C, H, W] that do not overlap, the surest first, and the best class score.

    thresholds: float32 [C], of things, in place of `rule.class_threshold`. The whole image at once.
    """
    network = predictor.network
    batch, final = looked(predictor, image, rule)
    canvas, masks = Canvas.of(batch), final.masks
    assert masks is not None
    logits, softmax = final.logits[0], network.recipe.softmax_classes
    own = None if thresholds is None else thresholds.to(logits.device)
    recipe, grid = replace(network.recipe, distill=rule), Grid.of(canvas, masks)
    found = regions(logits, masks[0], recipe, network.things, softmax, own, grid)
    place = torch.where(found.border, -1, found.place).cpu()
    order = found.scores.argsort(descending=True, stable=True).cpu()
    order = order[torch.isin(order, place)]
    rles = [to_rle(place == i) for i in order.tolist()]
    labels, scores = found.labels.cpu()[order], found.scores.float().cpu()[order]
    best = float(class_scores(logits, softmax)[0].max())
    return Predictions(
        "image", canvas.original, labels, scores, boxes_of(rles), rles, predictor.classes
    ), best


def with_segments(found: Predictions, kept: Sequence[int], table: Sequence[ClassInfo]) -> Predictions:
    """The segments `kept`, by place, with the maps they make: ids from 1 on, and labels; else 0 and -1."""
    found = found.select(torch.tensor([*kept], dtype=torch.int64))
    panoptic = torch.zeros(found.size, dtype=torch.int32)
    semantic = torch.full(found.size, -1, dtype=torch.int64)
    segments = []
    for i, label in enumerate(found.labels.tolist()):
        mask = found.mask(i)
        panoptic[mask], semantic[mask] = i + 1, label
        about = {"isthing": table[label].is_thing, "score": float(found.scores[i])}
        segments.append({"id": i + 1, "label": label, **about})
    return replace(found, panoptic=panoptic, semantic=semantic, segments=segments)


def semantic_segments(found: Predictions, table: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """What is said of the regions of a semantic map: class, pixels, score. Their value is the class's id."""
    return [
        {
            "id": table[label].id,
            "category_id": table[label].id,
            "area": int(coco_mask.area(rle)),
            "score": score,
        }
        for label, score, rle in zip(found.labels.tolist(), found.scores.tolist(), found.rles, strict=True)
    ]
