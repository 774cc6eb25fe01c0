"""Test-time augmentation of instances: the detections of several views of one image become one list.

Weighted boxes fusion (arXiv 1910.13302 §3) carried over to masks: detections of one class that overlap by IoU
0.55 are one; its score is their sum divided by the number of views, so that what few views see counts less.
Its mask is a vote, each view's weighted by its score. Unlike there, a group takes one detection of a view:
what one view sees twice stays two. detectron2's test-time augmentation (Apache-2.0) keeps the best box and
averages masks inside it. Called by image.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pycocotools import mask as coco_mask

from gdseg.infer.tiles import Rle, band_of, joined
from gdseg.structures import Predictions

_SAME = 0.55


@dataclass(frozen=True)
class _Detection:
    view: int
    label: int
    score: float
    rle: Rle
    box: tuple[float, ...]


def fuse(found: Sequence[Predictions], most: int) -> Predictions:
    """The detections of views of one image, all at its size, as one `Predictions` of at most `most`."""
    detections = [
        _Detection(view, label, score, rle, tuple(box))
        for view, each in enumerate(found)
        for label, score, rle, box in zip(
            each.labels.tolist(), each.scores.tolist(), each.rles, each.boxes_xyxy_px.tolist(), strict=True
        )
    ]
    fused = []
    for label in sorted({detection.label for detection in detections}):
        for group in _groups([d for d in detections if d.label == label]):
            score = sum(detection.score for detection in group) / len(found)
            fused.append((score, label, group))
    fused.sort(key=lambda item: -item[0])
    merged = [_merged(group) for _, _, group in fused[:most]]
    return replace(
        found[0],
        labels=torch.tensor([label for _, label, _ in fused[:most]], dtype=torch.int64),
        scores=torch.tensor([score for score, _, _ in fused[:most]], dtype=torch.float32),
        boxes_xyxy_px=torch.tensor([box for box, _ in merged], dtype=torch.float32).reshape(-1, 4),
        rles=[rle for _, rle in merged],
    )


def _groups(detections: Sequence[_Detection]) -> list[list[_Detection]]:
    """Detections of one class by object: the surest first, each joins the closest group without its view."""
    ordered = sorted(detections, key=lambda d: -d.score)
    groups: list[list[_Detection]] = []
    for detection in ordered:
        open_groups = [group for group in groups if all(d.view != detection.view for d in group)]
        overlap = np.zeros(0)
        if open_groups:
            heads = [group[0].rle for group in open_groups]
            overlap = coco_mask.iou([detection.rle], heads, [0] * len(heads))[0]
        if len(overlap) and overlap.max() > _SAME:
            open_groups[int(overlap.argmax())].append(detection)
        else:
            groups.append([detection])
    return groups


def _merged(group: Sequence[_Detection]) -> tuple[list[float], Rle]:
    """Box and mask of a group, weighted by score; a vote that leaves nothing is the best detection's mask."""
    weights = np.array([max(detection.score, 1e-9) for detection in group])
    box = np.average([detection.box for detection in group], axis=0, weights=weights)
    if len(group) == 1:
        return box.tolist(), group[0].rle
    size = (group[0].rle["size"][0], group[0].rle["size"][1])
    bands = [
        (first, band * np.float32(w))
        for (first, band), w in ((band_of(d.rle), w) for d, w in zip(group, weights, strict=True))
    ]
    rle = joined(bands, size, float(weights.sum()) / 2)
    return (box.tolist(), rle) if coco_mask.area(rle) else (list(group[0].box), group[0].rle)
