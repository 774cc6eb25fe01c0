"""Average precision and recall over COCO-style annotations: faster-coco-eval matches, this file feeds it.

faster-coco-eval (Apache-2.0) fills the same tables as COCOeval of pycocotools (BSD) in a fraction of its
time; the tests hold it to pycocotools. "boundary" is Boundary AP (arXiv 2103.16562 §5.1): what is compared is
the lesser of mask IoU and Boundary IoU. Called by eval/coco.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AREAS = ("all", "small", "medium", "large")
_LARGEST = 1e5**2
_KINDS = {"mask": "segm", "box": "bbox", "boundary": "boundary"}


@dataclass(frozen=True)
class Tables:
    """precision [T, R, K, A, M] and recall [T, K, A, M]; -1 where there is no truth.

    T IoU thresholds 0.5..0.95, R recall levels, K classes in the order of category_ids, A of `AREAS`,
    M detections a class and image: 1, 10, limit.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def metrics(self, limit: int) -> dict[str, float]:
        """ap, ap50, ap75, ap_small, .., ar1, ar10, ar<limit>, ar_small, ..; NaN where there is no truth."""
        precision, recall = self.precision[..., -1], self.recall
        tables = {"ap": precision[..., 0], "ap50": precision[0, ..., 0], "ap75": precision[5, ..., 0]}
        tables |= {f"ap_{AREAS[a]}": precision[..., a] for a in (1, 2, 3)}
        tables |= {f"ar{count}": recall[:, :, 0, m] for m, count in enumerate((1, 10, limit))}
        tables |= {f"ar_{AREAS[a]}": recall[:, :, a, 2] for a in (1, 2, 3)}
        return {name: mean(table) for name, table in tables.items()}

    def ap(self, labels: Sequence[int], threshold: int | slice = slice(None)) -> float:
        """AP of some labels, at all IoU thresholds or one of the ten."""
        return mean(self.precision[threshold][..., labels, 0, -1])


def mean(table: NDArray[np.float64]) -> float:
    """The mean of what is there (not -1), or NaN."""
    there = table[table > -1]
    return float(there.mean()) if there.size else float("nan")


def accumulate(
    truth: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]],
    category_ids: Sequence[int],
    kind: str,
    limit: int,
    areas: tuple[float, float],
) -> Tables:
    """Match detections with the truth. kind: mask, box or boundary.

    truth, found: COCO annotations with id (from 1), image_id (from 1: the place in `sizes`, of (height,
    width)), category_id, area, iscrowd, and bbox or a checked RLE as segmentation; found with a score.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    first, second = areas
    sides = []
    for entries in (truth, found):
        side = COCO()
        side.dataset = {
            "images": [{"id": n, "height": h, "width": w} for n, (h, w) in enumerate(sizes, 1)],
            "categories": [{"id": category_id} for category_id in category_ids],
            "annotations": [dict(entry) for entry in entries],  # it writes into them
        }
        side.createIndex()
        sides.append(side)
    evaluator = COCOeval_faster(*sides, _KINDS[kind])
    evaluator.params.maxDets = [1, 10, limit]
    evaluator.params.areaRng = [[0, _LARGEST], [0, first], [first, second], [second, _LARGEST]]
    evaluator.evaluate()
    evaluator.accumulate()
    order = np.argsort(np.argsort(category_ids))  # the evaluator sorts the classes by id
    precision, recall = (np.asarray(evaluator.eval[name]) for name in ("precision", "recall"))
    return Tables(precision[:, :, order], recall[:, order])
