"""Boundary regions (Boundary IoU, arXiv 2103.16562 §4) of whole label maps, and their IoU a class.

A region's boundary is its pixels nearer to its contour, or to the image's edge, than 2 % of the image's
diagonal. Distances are those of the paper's code (BSD-2): steps of a 3 x 3 erosion. Called by eval/maps.py
and eval/panoptic.py; boundaries of overlapping masks are found by eval/ap.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdseg.eval.scores import Scores

_RATIO = 0.02  # of the diagonal


def boundary(map_HW: NDArray[np.integer]) -> NDArray[np.bool_]:
    """bool [H, W]: pixels on the boundary of the region of equal values that they belong to."""
    width = max(1, round(_RATIO * float(np.hypot(*map_HW.shape))))
    outside = int(map_HW.min(initial=0)) - 1  # a value of its own around the image
    window = {"size": 2 * width + 1, "mode": "constant", "cval": outside}
    lowest = ndimage.minimum_filter(map_HW.astype(np.int64), **window)
    highest = ndimage.maximum_filter(map_HW.astype(np.int64), **window)
    inside: NDArray[np.bool_] = (lowest == map_HW) & (highest == map_HW)
    return ~inside


class BoundaryIou:
    """counts int64 [3, C]: boundary pixels of each class: of the truth, of what was found, of both."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((3, num_classes), dtype=np.int64)

    def add(self, truth_HW: NDArray[np.integer], found_HW: NDArray[np.integer]) -> None:
        """Count one image: labels 0..C-1; -1 in the truth: ignored, whatever is found there."""
        known = (found_HW >= 0) & (found_HW < self.num_classes) & (truth_HW >= 0)
        found_HW = np.where(known, found_HW, -1)
        true, found = boundary(truth_HW) & (truth_HW >= 0), boundary(found_HW) & known
        both = true & found & (truth_HW == found_HW)
        for row, labels in enumerate((truth_HW[true], found_HW[found], truth_HW[both])):
            self.counts[row] += np.bincount(labels, minlength=self.num_classes)

    def scores(self, classes: Sequence[str]) -> Scores:
        """boundary_miou, of the classes that the truth holds, and boundary_iou of each class."""
        true, found, both = self.counts
        with np.errstate(invalid="ignore"):
            iou = np.where(true > 0, both / (true + found - both), np.nan)
        mean = float(np.nanmean(iou)) if true.any() else float("nan")
        per_class = {name: {"boundary_iou": float(iou[label])} for label, name in enumerate(classes)}
        return Scores({"boundary_miou": mean}, per_class)
