"""How good pseudo-labels are at the rule's threshold and at others: how many, how many right, what they miss.

Objects are matched at IoU 0.5 as by COCO (eval/matching.py), segments as for panoptic quality, pixels one by
one. Called by report/pseudo_review.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gdseg.eval.matching import Overlaps, Tally
from gdseg.eval.panoptic import PanopticQuality, Truth


@dataclass
class Fit:
    """How masks that are right at IoU 0.5 fit: the IoU of each with the true one, its area over the other."""

    ious: list[float] = field(default_factory=list)
    area_ratios: list[float] = field(default_factory=list)

    def add(self, image: Overlaps, matched: NDArray[np.int64]) -> None:
        """Note one image's detections, matched (`Overlaps.match`)."""
        right = np.flatnonzero(matched >= 0)
        self.ious += image.iou[right, matched[right]].tolist()
        self.area_ratios += (image.areas[right] / image.true_areas[matched[right]]).tolist()

    @property
    def mask_iou(self) -> float:
        """Mean IoU, 0.5..1; NaN of nothing."""
        return float(np.mean(self.ious)) if self.ious else float("nan")

    @property
    def area_ratio(self) -> float:
        """Median of pixels over the true ones, 0.5..2; NaN of nothing."""
        return float(np.median(self.area_ratios)) if self.area_ratios else float("nan")


@dataclass
class Sweep:
    """Counts at each of several thresholds. found: pseudo-labels of each class, int64 [T, C].

    images: those looked at; judged: those of them whose truth is known, which `tallies` and, of objects,
    `fits` are of.
    """

    thresholds: Sequence[float]
    num_classes: int
    images: int = 0
    judged: int = 0
    found: NDArray[np.int64] = field(init=False)
    tallies: list[Tally] = field(init=False)
    fits: list[Fit] = field(init=False)

    def __post_init__(self) -> None:
        self.found = np.zeros((len(self.thresholds), self.num_classes), dtype=np.int64)
        self.tallies = [Tally.of(self.num_classes) for _ in self.thresholds]
        self.fits = [Fit() for _ in self.thresholds]

    def count(self, number: int, labels: Sequence[int] | NDArray[np.integer]) -> None:
        """The labels found in one image at threshold `number`."""
        self.found[number] += np.bincount(np.asarray(labels, dtype=np.int64), minlength=self.num_classes)

    def add_objects(
        self, number: int, image: Overlaps, quality: NDArray[np.floating], chosen: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Judge the detections `chosen` (bool [D]) at a threshold; return what each is (`Overlaps.match`)."""
        matched = image.match(np.where(chosen, quality, np.nan))
        self.tallies[number].add(image, matched, chosen)
        self.fits[number].add(image, matched)
        return matched

    def add_segments(
        self,
        number: int,
        truth_HW: NDArray[np.integer],
        truth: Sequence[Truth],
        found_HW: NDArray[np.integer],
        found: Mapping[int, int],
    ) -> None:
        """Judge the segments of one image as `PanopticQuality.add` does."""
        quality = PanopticQuality(self.num_classes)
        quality.add(truth_HW, truth, found_HW, found)
        tally = self.tallies[number]
        tally.right += quality.true_positives
        tally.wrong += quality.false_positives
        tally.missed += quality.false_negatives

    def add_pixels(self, number: int, truth_HW: NDArray[np.integer], found_HW: NDArray[np.integer]) -> None:
        """Judge one image's pixels: labels, -1 where the truth is not known or nothing was found."""
        known, tally = truth_HW >= 0, self.tallies[number]
        right = known & (truth_HW == found_HW)
        for counts, values in (
            (tally.right, truth_HW[right]),
            (tally.wrong, found_HW[known & (found_HW >= 0) & ~right]),
            (tally.missed, truth_HW[known & ~right]),
        ):
            counts += np.bincount(values.astype(np.int64), minlength=self.num_classes)
