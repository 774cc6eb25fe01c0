"""Cityscapes' iIoU (arXiv 1604.01685 §4.1), in which objects of a class weigh the same, and category IoU.

IoU favours large objects; iIoU weighs a pixel with the average size of its class over the size of its object.
Rules, sizes and categories are those of cityscapesScripts (MIT, evalPixelLevelSemanticLabeling.py), which
the tests hold this to. Called by eval/maps.py where files are named as the benchmark's are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdseg.data.label_maps import read_ids
from gdseg.errors import DataError
from gdseg.eval.cityscapes import OBJECTS
from gdseg.eval.scores import Scores

_AVERAGE_SIZE = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}  # pixels, in the training images
_CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}


class InstanceIou:
    """Sums over images. right, missed float64 [2, C]: weighed pixels of each class's objects.

    Row 0: found as the class or not; row 1: as its category or not. maps: the instanceIds of each image.
    """

    def __init__(self, maps: Mapping[int | str, Path], classes: Sequence[str], category_ids: Sequence[int]):
        self.maps, self.classes = maps, list(classes)
        self.label_of = {category_id: label for label, category_id in enumerate(category_ids)}
        groups = list(_CATEGORIES.values())
        self.category = np.array([[name in group for name in classes] for group in groups]).argmax(0)
        self.right, self.missed = np.zeros((2, len(classes))), np.zeros((2, len(classes)))

    def add(self, image_id: int | str, found_HW: NDArray[np.integer]) -> None:
        """Count one image. found_HW: labels, others of no class. Raises DataError where sizes differ."""
        ids_HW = read_ids(self.maps[image_id])
        if ids_HW.shape != found_HW.shape:
            raise DataError(f"its size differs from that of image {image_id}", self.maps[image_id])
        values, place, areas = np.unique(ids_HW, return_inverse=True, return_counts=True)
        known = (found_HW >= 0) & (found_HW < len(self.classes))
        for number, (value, area) in enumerate(zip(values.tolist(), areas.tolist(), strict=True)):
            label = self.label_of.get(value // OBJECTS, -1) if value > OBJECTS else -1
            if label < 0 or self.classes[label] not in _AVERAGE_SIZE:
                continue
            found = found_HW[(place.reshape(ids_HW.shape) == number) & known]
            same = self.category[found] == self.category[label]
            hits = np.array([(found == label).sum(), same.sum()])
            weight = _AVERAGE_SIZE[self.classes[label]] / area
            self.right[:, label] += weight * hits
            self.missed[:, label] += weight * (area - hits)

    def scores(self, counts: NDArray[np.int64]) -> Scores:
        """iiou, category_iou, category_iiou, and the iiou of each class.

        counts: pixels by true (rows) and found label (columns, the last: none), as `semantic.Confusion` has.
        """
        square = counts[:, : len(self.classes)]
        members = np.arange(len(_CATEGORIES))[:, None] == self.category  # [categories, C]
        objects = np.array([name in _AVERAGE_SIZE for name in self.classes])
        wrong = square.sum(0) - np.diag(square)
        iiou = np.where(objects, _iou(self.right[0], self.missed[0], wrong), np.nan)
        hit = np.diag(members @ square @ members.T)
        missed, wrong = members @ counts.sum(1) - hit, members @ square.sum(0) - hit
        category_iou = _iou(hit, missed, wrong)
        category_iiou = _iou(members @ self.right[1], members @ self.missed[1], wrong)
        category_iiou[~(members @ objects)] = np.nan
        metrics = {"iiou": iiou, "category_iou": category_iou, "category_iiou": category_iiou}
        return Scores(
            {name: _mean(values) for name, values in metrics.items()},
            {name: {"iiou": float(value)} for name, value in zip(self.classes, iiou, strict=True)},
        )


def _iou(hit: NDArray[Any], missed: NDArray[Any], wrong: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(hit / (hit + missed + wrong), dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
