"""Semantic scores from a confusion matrix: mIoU, frequency-weighted IoU, pixel and class accuracy.

Definitions of FCN (arXiv 1411.4038 §5); pixels of no class in the truth count for nothing, and classes that
the truth never holds are left out of the means, as detectron2's SemSegEvaluator (Apache-2.0) does. Called by
eval/run.py and, for a folder of predictions, eval/maps_file.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gdseg.eval.scores import Scores


class Confusion:
    """int64 [C, C + 1]: pixels by true label (rows) and found label (columns); the last column is none."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def add(self, truth_HW: NDArray[np.integer], found_HW: NDArray[np.integer]) -> None:
        """Count one image: labels 0..C-1; -1 in the truth: ignored; others in found: of no class.

        Raises ValueError where the two maps differ in size.
        """
        if truth_HW.shape != found_HW.shape:
            raise ValueError(f"the truth is {truth_HW.shape}, the prediction {found_HW.shape}")
        C, valid = self.num_classes, truth_HW >= 0
        truth, found = truth_HW[valid].astype(np.int64), found_HW[valid].astype(np.int64)
        found = np.where((found >= 0) & (found < C), found, C)
        self.counts += np.bincount(truth * (C + 1) + found, minlength=C * (C + 1)).reshape(C, C + 1)

    def scores(self, classes: Sequence[str]) -> Scores:
        """miou, fwiou, pixel_accuracy, class_accuracy; iou and accuracy of each class, and its pixels."""
        hit, true, found = np.diag(self.counts), self.counts.sum(1), self.counts[:, :-1].sum(0)
        there, total = true > 0, self.counts.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = np.where(there, hit / true, np.nan)
            iou = np.where(there, hit / (true + found - hit), np.nan)
        nothing = float("nan")
        scores = Scores(
            {
                "miou": float(iou[there].mean()) if total else nothing,
                "fwiou": float((iou[there] * true[there]).sum() / total) if total else nothing,
                "pixel_accuracy": float(hit.sum() / total) if total else nothing,
                "class_accuracy": float(accuracy[there].mean()) if total else nothing,
            }
        )
        for label, name in enumerate(classes):
            facts = {
                "iou": float(iou[label]),
                "accuracy": float(accuracy[label]),
                "pixels": float(true[label]),
            }
            scores.per_class[name] = facts
        return scores
