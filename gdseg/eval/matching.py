"""Which found object is which true one, in one image and at one IoU: for precision, recall and single images.

The greedy matching of the COCO API (BSD, pycocotools/cocoeval.py evaluateImg), which the tests hold this to.
Averages over IoUs and recalls are AP, in eval/ap.py. Called by eval/ and report/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from gdseg.eval.coco import as_rle
from gdseg.structures import Predictions, Record

NONE, SPARED = -1, -2  # no true object; no true object, but nothing can be held against it


@dataclass(frozen=True)
class Overlaps:
    """What one image holds and what was found in it. D detections, G true objects, crowds among them.

    iou float64 [D, G]: of masks, 0 for pairs of different classes; of crowds the detection's share inside.
    areas int64 [D], true_areas int64 [G]: pixels of the masks.
    spared bool [D]: a detection that nobody can call wrong (federated data, arXiv 1908.03195 §2).
    """

    iou: NDArray[np.float64]
    labels: NDArray[np.int64]
    true_labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    spared: NDArray[np.bool_]
    areas: NDArray[np.int64]
    true_areas: NDArray[np.int64]

    def match(self, scores: NDArray[np.floating], at: float = 0.5) -> NDArray[np.int64]:
        """int64 [D]: the true object that each detection is, `NONE` or `SPARED`; NaN scores take no part.

        The best-scored detection chooses first, the true object that it overlaps most among those left.
        """
        matched = np.where(self.spared, SPARED, NONE)
        free = ~self.crowd
        order = np.argsort(-scores, kind="stable")
        for d in order[: int(np.isfinite(scores).sum())]:
            candidates = np.flatnonzero(free & (self.iou[d] >= at))
            if len(candidates):
                best = candidates[::-1][self.iou[d, candidates[::-1]].argmax()]  # of equals the last, as COCO
                matched[d], free[best] = best, False
            elif (self.crowd & (self.iou[d] >= at)).any():
                matched[d] = SPARED
        return matched


def overlaps(found: Predictions, record: Record) -> Overlaps:
    """Compare an image's masks; `record` has masks, not a label map (`data.label_maps.with_masks`)."""
    annotations = record.annotations or ()
    true = [as_rle(a["segmentation"], record) for a in annotations]
    crowd = np.array([bool(a.get("iscrowd")) or bool(a.get("ignore")) for a in annotations], dtype=bool)
    true_labels = np.array([a["label"] for a in annotations], dtype=np.int64)
    labels = found.labels.numpy().astype(np.int64)
    iou = np.zeros((len(labels), len(true)))
    if len(labels) and len(true):
        iou = np.asarray(coco_mask.iou(found.rles, true, crowd.astype(np.uint8)), dtype=np.float64)
        iou = np.where(labels[:, None] == true_labels[None], iou, 0.0)
    spared = np.zeros(len(labels), dtype=bool)
    if record.federated is not None:
        judged = (record.federated.absent | set(true_labels.tolist())) - record.federated.partial
        spared = np.array([label not in judged for label in labels.tolist()], dtype=bool)
    return Overlaps(iou, labels, true_labels, crowd, spared, _areas(found.rles), _areas(true))


def _areas(rles: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
    # one by one: pycocotools 2.0.11 takes no list of more than 255
    return np.array([coco_mask.area(rle) for rle in rles], dtype=np.int64)


@dataclass
class Tally:
    """Right, wrong and missed ones of each class, int64 [C]: objects, segments or pixels."""

    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    missed: NDArray[np.int64]

    @classmethod
    def of(cls, num_classes: int) -> Tally:
        """Nothing counted yet."""
        return cls(*(np.zeros(num_classes, dtype=np.int64) for _ in range(3)))

    def add(self, image: Overlaps, matched: NDArray[np.int64], chosen: NDArray[np.bool_]) -> None:
        """Count one image's detections that are `chosen` (bool [D]), matched among themselves."""
        C = len(self.right)
        real = ~image.crowd
        hit = matched[chosen & (matched >= 0)]
        self.right += np.bincount(image.true_labels[hit], minlength=C)
        self.wrong += np.bincount(image.labels[chosen & (matched == NONE)], minlength=C)
        self.missed += np.bincount(image.true_labels[real], minlength=C)
        self.missed -= np.bincount(image.true_labels[hit], minlength=C)

    def precision(self, labels: Sequence[int] | slice = slice(None)) -> float:
        """Share of what was found that is right; NaN where nothing was found."""
        return _share(self.right[labels], self.wrong[labels])

    def recall(self, labels: Sequence[int] | slice = slice(None)) -> float:
        """Share of what there is that was found; NaN where there is nothing."""
        return _share(self.right[labels], self.missed[labels])


def _share(right: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    total = int(right.sum() + others.sum())
    return float(right.sum()) / total if total else float("nan")
